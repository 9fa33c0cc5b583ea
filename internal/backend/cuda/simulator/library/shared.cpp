#include "shared.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <new>

namespace simulator {

namespace {

const uint64_t layout = 1 << 20 | sizeof(Devices);

// Seat is this process's entry in the shared file.
struct Seat {
    Devices* devices = nullptr;
    bool file = false;
    Process* me = nullptr;
    uint64_t start = 0;
};

[[noreturn]] void stop(const char* what, const char* path) {
    fprintf(stderr, "simulator: %s: %s: %s\n", path, what, strerror(errno));
    abort();
}

void prepare(Devices* d) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&d->mutex, &a);
    pthread_mutexattr_destroy(&a);
    d->settle();
    __atomic_store_n(&d->version, layout, __ATOMIC_RELEASE);
}

// open maps a file of devices, and makes it if it is not there. It gives nullptr and sets errno if it cannot.
Devices* open(const char* path) {
    int file = ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return nullptr;
    void* at = MAP_FAILED;
    struct stat info;
    if (!flock(file, LOCK_EX) && !fstat(file, &info)) {
        if (info.st_size && info.st_size != sizeof(Devices)) {
            errno = EINVAL; // it is another file, or of another version
        } else if (!ftruncate(file, sizeof(Devices))) {
            at = mmap(nullptr, sizeof(Devices), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        }
    }
    auto* d = at == MAP_FAILED ? nullptr : static_cast<Devices*>(at);
    if (d && d->version != layout) {
        if (d->version) {
            munmap(d, sizeof *d);
            d = nullptr;
            errno = EINVAL;
        } else {
            prepare(d);
        }
    }
    int error = errno;
    flock(file, LOCK_UN); // the mapping would keep the lock
    close(file);
    errno = error;
    return d;
}

Devices* alone() {
    void* at = mmap(nullptr, sizeof(Devices), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) stop("no memory for it", "the device");
    auto* d = static_cast<Devices*>(at);
    prepare(d);
    return d;
}

Seat& seat() {
    static Seat* s = [] {
        auto* s = new Seat;
        const char* path = getenv("SIMULATOR_DEVICE");
        s->file = path && *path;
        s->devices = s->file ? open(path) : alone();
        if (!s->devices) stop("it cannot be used as a device (SIMULATOR_DEVICE)", path);
        return s;
    }();
    return *s;
}

uint64_t mixed(uint64_t v) { // splitmix64
    v += 0x9e3779b97f4a7c15;
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9;
    v = (v ^ v >> 27) * 0x94d049bb133111eb;
    return v ^ v >> 31;
}

} // namespace

void Devices::settle() {
    count = 1;
    major = 9, minor = 0, multiprocessors = 8, cuda = 12040, slices = 0;
    capacity = capacity_default, reserved = 0;
    const char* overhead = getenv("SIMULATOR_CONTEXT");
    context = overhead ? strtoull(overhead, nullptr, 10) : context_default;
    refusals = 0;
    competitor.pace = 0;
    competitor.took = competitor.gave = 0;
    for (int i = 0; i < used; i++) {
        if (processes[i].kind != Process::real) processes[i] = {};
    }
}

size_t Devices::taken(int device, const Process* except) const {
    size_t sum = 0;
    for (const Process* p = processes; p < processes + used; p++) {
        if (p->kind && p != except) sum += p->shares[device].all();
    }
    return sum;
}

size_t Devices::free(int device) const {
    size_t all = taken(device);
    return capacity > all ? capacity - all : 0;
}

void Devices::bury() {
    pid_t self = getpid();
    for (Process* p = processes; p < processes + used; p++) {
        if (p->kind && p->pid && p->pid != self && born(p->pid) != p->start) *p = {};
    }
}

Process* Devices::place(int kind, pid_t pid, uint64_t start) {
    for (Process* p = processes; p < processes + used; p++) {
        if (p->kind == kind && p->pid == pid && p->start == start) return p;
    }
    bury();
    Process* p = processes;
    while (p < processes + most_processes && p->kind) p++;
    if (p == processes + most_processes) return nullptr;
    *p = {};
    p->pid = pid, p->start = start;
    p->kind = kind;
    used = std::max<int>(used, p - processes + 1);
    return p;
}

void Devices::move(uint64_t turn) {
    bury();
    Process* p = place(Process::competitor, 0, 0);
    if (!p) return;
    size_t held = taken(0, p), left = capacity > held ? capacity - held : 0;
    size_t leave = competitor.low + mixed(competitor.seed + mixed(turn)) % (competitor.high - competitor.low + 1);
    size_t before = p->shares[0].memory, now = left > leave ? left - leave : 0;
    p->shares[0].memory = now;
    if (now > before) competitor.took++;
    if (now < before) competitor.gave++;
}

Locked::Locked() : devices(&simulator::devices()) {
    int code = pthread_mutex_lock(&devices->mutex);
    if (code == EOWNERDEAD) code = pthread_mutex_consistent(&devices->mutex);
    if (code) {
        errno = code;
        stop("it cannot be locked", "the device");
    }
}

Locked::~Locked() { pthread_mutex_unlock(&devices->mutex); }

Devices& devices() { return *seat().devices; }

bool joined() { return seat().file; }

int join(const char* path) {
    Seat& s = seat();
    Devices* next = *path ? open(path) : alone();
    if (!next) return errno;
    {
        Locked d;
        if (s.me) *s.me = {};
    }
    munmap(s.devices, sizeof(Devices));
    s.devices = next, s.me = nullptr, s.file = *path;
    return 0;
}

Process* mine(Locked& d) {
    Seat& s = seat();
    if (!s.me) {
        if (!s.start) s.start = born(getpid());
        s.me = d->place(Process::real, getpid(), s.start);
        if (!s.me) stop("too many processes use it", "the device");
        for (Share& share : s.me->shares) share = {}; // of a program that this one has replaced (exec)
    }
    return s.me;
}

bool take(int device, size_t bytes, bool context) {
    Locked d;
    Process* me = mine(d);
    if (d->free(device) < bytes) d->bury();
    if (d->free(device) < bytes) return false;
    Share& s = me->shares[device];
    (context ? s.context : s.memory) += bytes;
    if (context) s.retained = 1;
    return true;
}

void give(int device, size_t bytes, bool context) {
    Locked d;
    Share& s = mine(d)->shares[device];
    (context ? s.context : s.memory) -= bytes;
    if (context) s.retained = 0;
}

bool resize(int device, size_t before, size_t after) {
    Locked d;
    Process* me = mine(d);
    if (after > before && d->free(device) < after - before) return false;
    me->shares[device].context += after - before;
    return true;
}

void tick() {
    Devices& d = devices();
    uint64_t n = d.calls.fetch_add(1, std::memory_order_relaxed) + 1, pace = d.competitor.pace;
    if (!pace) return;
    if ((n - d.competitor.from) % pace) return;
    Locked l;
    if (d.competitor.pace == pace) d.move((n - d.competitor.from) / pace);
}

uint64_t born(pid_t pid) {
    char name[40], text[1024];
    snprintf(name, sizeof name, "/proc/%d/stat", (int)pid);
    int file = ::open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t n = read(file, text, sizeof text - 1);
    close(file);
    if (n <= 0) return 0;
    text[n] = 0;
    const char* p = strrchr(text, ')'); // the name before it may have any character
    if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X') return 0;
    p += 2;
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p) return 0;
        p++;
    }
    return strtoull(p, nullptr, 10);
}

void uuid(unsigned char* to, int device, bool part) {
    memcpy(to, "simulated device", 16);
    to[15] += device;
    if (part) memcpy(to, "slice", 5);
}

// What tests set and ask.

#define CONTROL(type) extern "C" __attribute__((visibility("default"))) type

// simulator_take sets the bytes that other programs have of a device, at most as many as there is room for, and returns them. They belong to
// an invisible program or, with a pid, to that process while it lives; -1 says that it does not live, -2 that there are too many.
CONTROL(ssize_t) simulator_take(int device, size_t bytes, pid_t pid, const char* name) {
    if (device < 0 || device >= most_devices) return -1;
    uint64_t start = pid ? born(pid) : 0;
    if (pid && !start) return -1;
    Locked d;
    d->bury();
    Process* p = d->place(pid ? Process::invented : Process::unlisted, pid, start);
    if (!p) return -2;
    snprintf(p->name, sizeof p->name, "%s", name);
    size_t held = d->taken(device, p);
    Share& s = p->shares[device];
    s.memory = std::min(bytes, d->capacity > held ? d->capacity - held : 0);
    s.retained = bytes > 0;
    return s.memory;
}

// simulator_compete begins a competition on the first device: at each pace-th call of the driver, of any process, a competitor takes so much
// that between low and high bytes are free. A pace of 0 ends it, and gives that memory back.
CONTROL(int) simulator_compete(uint64_t seed, size_t low, size_t high, uint64_t pace) {
    if (high < low) return 1;
    Locked d;
    Competitor& c = d->competitor;
    c.pace = 0;
    c.seed = seed, c.low = low, c.high = high, c.from = d->calls;
    if (pace == 0) {
        Process* p = d->place(Process::competitor, 0, 0);
        if (p) *p = {};
    }
    c.pace = pace;
    return 0;
}

// simulator_moves returns how often the competitor took (0) or gave (1) memory.
CONTROL(uint64_t) simulator_moves(int gave) {
    Locked d;
    return gave ? d->competitor.gave : d->competitor.took;
}

// simulator_used_by returns the bytes that a process has of all devices; with pid 0, this one.
CONTROL(size_t) simulator_used_by(pid_t pid) {
    Locked d;
    if (!pid) pid = getpid();
    d->bury();
    size_t sum = 0;
    for (Process* p = d->processes; p < d->processes + d->used; p++) {
        if (!p->kind || p->pid != pid) continue;
        for (const Share& s : p->shares) sum += s.all();
    }
    return sum;
}

// simulator_free returns the bytes that are free on a device.
CONTROL(size_t) simulator_free(int device) {
    Locked d;
    d->bury();
    return device < 0 || device >= most_devices ? 0 : d->free(device);
}

// simulator_refusals counts the calls of cuMemCreate, of any process, that there was no room for.
CONTROL(uint64_t) simulator_refusals() { return devices().refusals; }

CONTROL(void) simulator_set_capacity(size_t bytes) { devices().capacity = bytes; }

// simulator_set_reserved sets what the driver keeps of each device, beside its capacity. Only NVML tells of it.
CONTROL(void) simulator_set_reserved(size_t bytes) { devices().reserved = bytes; }

// simulator_set_context sets what a context takes that is made from now on.
CONTROL(void) simulator_set_context(size_t bytes) { devices().context = bytes; }

// simulator_set_device sets the compute capability and the number of multiprocessors.
CONTROL(void) simulator_set_device(int major, int minor, int multiprocessors) {
    Devices& d = devices();
    d.major = major, d.minor = minor, d.multiprocessors = multiprocessors;
}

// simulator_set_version sets the newest version of CUDA that the driver supports, 12040 for 12.4.
CONTROL(void) simulator_set_version(int version) { devices().cuda = version; }

// simulator_set_slices makes the devices slices of a GPU (1) or whole ones (0).
CONTROL(void) simulator_set_slices(int slices) { devices().slices = slices; }

// simulator_set_count sets how many devices there are, up to 4.
CONTROL(void) simulator_set_count(int count) { devices().count = std::min(std::max(count, 0), most_devices); }

} // namespace simulator
