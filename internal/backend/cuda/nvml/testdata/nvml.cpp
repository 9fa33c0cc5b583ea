// A stand-in for the management library with one GPU, as an older driver has it (OLD) or a newer one.
#include <stdio.h>
#include <string.h>

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

static int device;

static int list(unsigned* n, Info* to, unsigned count, unsigned first) {
    unsigned room = *n;
    *n = count;
    if (room < count) return 7;
    for (unsigned i = 0; i < count; i++) to[i] = {first + i, i ? 1000ull * i : ~0ull, 0, 0};
    return 0;
}

extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlSystemGetDriverVersion(char* to, unsigned n) { return snprintf(to, n, "550.54.15") < 0; }
int nvmlSystemGetProcessName(unsigned pid, char* to, unsigned n) {
    if (pid != 7) return 6;
    return snprintf(to, n, "/usr/bin/other") < 0;
}
int nvmlDeviceGetCount_v2(unsigned* n) {
    *n = 2;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void** to) {
    *to = &device;
    return i ? 4 : 0; // the second is another user's
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** to) {
    *to = &device;
    return strcmp(bus, "0000:3b:00.0") ? 6 : 0;
}
int nvmlDeviceGetHandleByUUID(const char* uuid, void** to) {
    *to = &device;
    return strcmp(uuid, "GPU-1") ? 6 : 0;
}
int nvmlDeviceGetName(void*, char* to, unsigned n) { return snprintf(to, n, "Stand-in") < 0; }
int nvmlDeviceGetUUID(void*, char* to, unsigned n) { return snprintf(to, n, "GPU-1") < 0; }
int nvmlDeviceGetPciInfo_v3(void*, Pci* to) {
    *to = {"0000:3B:00.0", 0, 0x3b, 0, 1, 2, "00000000:3B:00.0"};
    return 0;
}
int nvmlDeviceGetTemperature(void*, int sensor, unsigned* to) {
    *to = 45;
    return sensor;
}
int nvmlDeviceGetPowerUsage(void*, unsigned* to) {
    *to = 123500;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void*, unsigned* to) {
    to[0] = 75, to[1] = 50;
    return 0;
}
int nvmlDeviceGetMemoryInfo(void*, Memory* to) {
    *to = {100, 60, 40};
    return 0;
}
#ifdef OLD
int nvmlDeviceGetComputeRunningProcesses_v2(void*, unsigned* n, Info* to) { return list(n, to, 3, 7); }
int nvmlDeviceGetGraphicsRunningProcesses_v2(void*, unsigned*, Info*) { return 3; }
#else
int nvmlDeviceGetMemoryInfo_v2(void*, Memory2* to) {
    if (to->version != (sizeof(Memory2) | 2 << 24)) return 25;
    *to = {to->version, 100, 10, 60, 30};
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void*, unsigned* n, Info* to) { return list(n, to, 40, 7); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void*, unsigned* n, Info* to) { return list(n, to, 2, 46); }
#endif
}
