// A stand-in for the management library with four GPUs, of which it may not tell the last: in the order of the bus, one that CUDA does not show, and the simulator's second
// and first. HOLDER is a process that holds memory of the third.
#include <stdio.h>
#include <string.h>

struct Info {
    unsigned pid;
    unsigned long long bytes;
    unsigned instance, compute;
};
struct Memory2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

static const unsigned long long mib = 1 << 20;
static const char* const uuids[] = {"GPU-hidden", "GPU-73696d75-6c61-7465-6420-646576696366", "GPU-73696d75-6c61-7465-6420-646576696365"};
static int devices[3];

static int find(void** to, int index) {
    *to = &devices[index];
    return 0;
}

extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlSystemGetDriverVersion(char* to, unsigned n) { return snprintf(to, n, "550.54.15") < 0; }
int nvmlDeviceGetCount_v2(unsigned* to) {
    *to = 4;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** to) { return index < 3 ? find(to, index) : 4; }
int nvmlDeviceGetHandleByPciBusId_v2(const char*, void**) { return 6; }
int nvmlDeviceGetHandleByUUID(const char* uuid, void** to) {
    for (int i = 0; i < 3; i++)
        if (!strcmp(uuid, uuids[i])) return find(to, i);
    return 6;
}
int nvmlDeviceGetUUID(int* d, char* to, unsigned n) { return snprintf(to, n, "%s", uuids[d - devices]) < 0; }
int nvmlDeviceGetName(int*, char* to, unsigned n) { return snprintf(to, n, "Stand-in") < 0; }
int nvmlSystemGetProcessName(unsigned, char*, unsigned) { return 6; }
int nvmlDeviceGetPciInfo_v3(int*, void*) { return 3; }
int nvmlDeviceGetTemperature(int*, int, unsigned*) { return 3; }
int nvmlDeviceGetPowerUsage(int*, unsigned*) { return 3; }
int nvmlDeviceGetUtilizationRates(int* d, unsigned* to) {
    if (d == devices) return 3;
    to[0] = 75, to[1] = 50;
    return 0;
}
int nvmlDeviceGetMemoryInfo(int*, void*) { return 3; }
int nvmlDeviceGetMemoryInfo_v2(int* d, Memory2* to) {
    if (d == &devices[2])
        *to = {to->version, 8192 * mib, 512 * mib, 4096 * mib, 3584 * mib};
    else
        *to = {to->version, 8192 * mib, 0, 600 * mib, 7592 * mib};
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(int* d, unsigned* n, Info* to) {
    *n = 0;
    if (d != &devices[2]) return 0;
    *n = 3;
    to[0] = {4194305, ~0ull, 0, 0}; // above the most that the kernel gives
    to[1] = {HOLDER, 1024 * mib, 0, 0};
    to[2] = {1, 512 * mib, 0, 0};
    return 0;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(int*, unsigned*, Info*) { return 3; }
}
