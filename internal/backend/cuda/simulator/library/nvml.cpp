// The functions of NVIDIA's management library for the same devices. They need no context, and tell of all processes that share them.
#include <stdio.h>
#include <string.h>
#include <atomic>
#include <vector>

#include "shared.h"

using namespace simulator;

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum Code { success, uninitialized, invalid, not_supported, not_found = 6, too_small = 7 };

struct Info {
    unsigned pid;
    unsigned long long bytes;
    unsigned instance, compute;
};
struct Memory {
    unsigned long long total, free, used;
};
struct Memory2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct Pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char text[32];
};

std::atomic<int> users;
std::atomic<uint64_t> seen[most_devices]; // launches, when this process last asked

// Handle is a device with its number behind it.
struct Handle {
    int device;
    bool slice;
};

Handle handles[2 * most_devices];

int handle(Handle** to, int device, bool slice) {
    if (!users) return uninitialized;
    if (device < 0 || device >= devices().count) return not_found;
    *to = &handles[2 * device + slice];
    **to = {device, slice};
    return success;
}

// check says whether a function may be called with a handle.
int check(const Handle* h) {
    if (!users) return uninitialized;
    return h >= handles && h < handles + 2 * most_devices && h->device < devices().count ? success : invalid;
}

int text_to(char* to, unsigned room, const char* text) {
    if (strlen(text) >= room) return too_small;
    strcpy(to, text);
    return success;
}

void identity(char* to, int device, bool slice) {
    unsigned char u[16];
    uuid(u, device, slice);
    to += sprintf(to, "%s", slice ? "MIG" : "GPU");
    for (int i = 0; i < 16; i++) to += sprintf(to, i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
}

void usage(int device, Memory2* m) {
    Locked d;
    d->bury();
    m->reserved = d->reserved;
    m->total = d->capacity + d->reserved;
    m->free = d->free(device);
    m->used = d->capacity - m->free;
}

} // namespace

API nvmlInit_v2() {
    devices();
    users++;
    return success;
}

API nvmlShutdown() {
    if (!users) return uninitialized;
    users--;
    return success;
}

API nvmlSystemGetDriverVersion(char* to, unsigned room) { return users ? text_to(to, room, "550.54.15") : uninitialized; }

API nvmlSystemGetProcessName(unsigned pid, char* to, unsigned room) {
    if (!users) return uninitialized;
    {
        Locked d;
        d->bury();
        for (Process* p = d->processes; p < d->processes + d->used; p++) {
            if (p->kind == Process::invented && p->pid == (pid_t)pid && *p->name) return text_to(to, room, p->name);
        }
    }
    char path[40], name[4096] = "";
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE* f = fopen(path, "r");
    if (!f) return not_found;
    size_t n = fread(name, 1, sizeof name - 1, f);
    fclose(f);
    return n ? text_to(to, room, name) : not_found;
}

API nvmlDeviceGetCount_v2(unsigned* n) {
    *n = devices().count;
    return users ? success : uninitialized;
}

API nvmlDeviceGetHandleByIndex_v2(unsigned i, Handle** to) {
    int code = handle(to, i, false);
    return code == not_found ? (int)invalid : code;
}

API nvmlDeviceGetHandleByPciBusId_v2(const char* bus, Handle** to) {
    unsigned domain, number, device, function;
    if (sscanf(bus, "%x:%x:%x.%x", &domain, &number, &device, &function) != 4) return invalid;
    return domain || device || function ? (int)not_found : handle(to, number, false);
}

API nvmlDeviceGetHandleByUUID(const char* uuid, Handle** to) {
    for (int slice = 0; slice <= devices().slices; slice++) {
        for (int i = 0; i < most_devices; i++) {
            char text[80];
            identity(text, i, slice);
            if (strcmp(text, uuid) == 0) return handle(to, i, slice);
        }
    }
    return users ? not_found : uninitialized;
}

API nvmlDeviceGetName(Handle* h, char* to, unsigned room) {
    int code = check(h);
    return code ? code : text_to(to, room, "Simulator");
}

API nvmlDeviceGetUUID(Handle* h, char* to, unsigned room) {
    if (int code = check(h)) return code;
    char text[80];
    identity(text, h->device, h->slice);
    return text_to(to, room, text);
}

API nvmlDeviceGetPciInfo_v3(Handle* h, Pci* to) {
    if (int code = check(h)) return code;
    *to = {};
    to->bus = h->device;
    snprintf(to->legacy, sizeof to->legacy, "0000:%02X:00.0", to->bus);
    snprintf(to->text, sizeof to->text, "00000000:%02X:00.0", to->bus);
    return success;
}

API nvmlDeviceGetMemoryInfo(Handle* h, Memory* to) {
    if (int code = check(h)) return code;
    Memory2 m;
    usage(h->device, &m);
    *to = {m.total, m.free, m.used + m.reserved};
    return success;
}

API nvmlDeviceGetMemoryInfo_v2(Handle* h, Memory2* to) {
    if (int code = check(h)) return code;
    if (to->version != (sizeof *to | 2 << 24)) return 25;
    usage(h->device, to);
    return success;
}

// All the time counts as worked in if a kernel ran since the process last asked, else none of it.
API nvmlDeviceGetUtilizationRates(Handle* h, unsigned* to) {
    if (int code = check(h)) return code;
    if (h->slice) return not_supported;
    uint64_t n = devices().launches[h->device];
    to[0] = to[1] = seen[h->device].exchange(n) == n ? 0 : 100;
    return success;
}

API nvmlDeviceGetTemperature(Handle* h, int sensor, unsigned* celsius) {
    if (int code = check(h)) return code;
    if (sensor) return invalid;
    *celsius = 40;
    return success;
}

API nvmlDeviceGetPowerUsage(Handle* h, unsigned* milliwatts) {
    if (int code = check(h)) return code;
    if (h->slice) return not_supported;
    *milliwatts = 100500;
    return success;
}

API nvmlDeviceGetComputeRunningProcesses_v3(Handle* h, unsigned* n, Info* to) {
    if (int code = check(h)) return code;
    std::vector<Info> all;
    {
        Locked d;
        d->bury();
        for (Process* p = d->processes; p < d->processes + d->used; p++) {
            const Share& s = p->shares[h->device];
            if (!p->pid || (!s.retained && !s.all())) continue;
            auto same = all.begin();
            while (same != all.end() && same->pid != (unsigned)p->pid) ++same;
            if (same == all.end()) same = all.insert(same, {(unsigned)p->pid, 0, ~0u, ~0u});
            same->bytes += s.all();
        }
    }
    unsigned room = *n;
    *n = all.size();
    if (room < all.size()) return too_small;
    for (size_t i = 0; i < all.size(); i++) to[i] = all[i];
    return success;
}

API nvmlDeviceGetComputeRunningProcesses_v2(Handle* h, unsigned* n, Info* to) {
    return nvmlDeviceGetComputeRunningProcesses_v3(h, n, to);
}

API nvmlDeviceGetGraphicsRunningProcesses_v3(Handle* h, unsigned* n, Info*) {
    if (int code = check(h)) return code;
    if (h->slice) return not_supported;
    *n = 0;
    return success;
}

API nvmlDeviceGetGraphicsRunningProcesses_v2(Handle* h, unsigned* n, Info* to) {
    return nvmlDeviceGetGraphicsRunningProcesses_v3(h, n, to);
}
