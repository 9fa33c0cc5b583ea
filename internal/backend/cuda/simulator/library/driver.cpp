// The functions of libcuda that the program calls, without a GPU: kernels run on the processor (fiber.cpp), and the device's memory is
// memory of files, so that one piece can have several addresses and what is not mapped faults. Wrong use is an error as the driver's
// manual has it, or stricter. Streams run at once or, when simulator_set_lazy asks for it, as late as the program's waiting allows and
// one stream far behind another: a program whose results differ then lacks a wait. The accounts of memory are in shared.cpp.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <pthread.h>

#include "faults.h"
#include "fiber.h"
#include "shared.h"

namespace {

using Address = unsigned long long;
using simulator::devices;
using simulator::most_devices;

enum Code {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    not_initialized = 3,
    no_device = 100,
    invalid_device = 101,
    invalid_image = 200,
    invalid_context = 201,
    unsupported_limit = 215,
    invalid_handle = 400,
    not_found = 500,
    not_ready = 600,
    out_of_resources = 701,
    launch_failed = 719,
    not_permitted = 800,
    capture_unsupported = 900,
    capture_unmatched = 903,
    capture_implicit = 906,
};

const size_t granularity = 2 << 20;
const size_t shared_free = 48 << 10, shared_opt_in = 227 << 10, shared_all = 228 << 10;

struct Physical {
    int file, device;
    size_t bytes;
    int maps;
    bool released;
};

struct Mapping {
    size_t bytes;
    Address handle;
    bool open; // access is set
};

struct Event;
struct Stream;

// Context is a device as a process has it.
struct Context {
    int users = 0;
    int lost = 0;        // the error that all calls give, also in a context that is made anew, as on a GPU
    size_t overhead = 0; // memory that it takes by itself
};

// Range is memory of a context.
struct Range {
    size_t bytes;
    Context* owner;
};

using Work = std::function<int()>;

struct Graph {
    std::vector<Work> work;
    Context* owner = nullptr;
};

struct Event {
    bool timing;
    unsigned recorded = 0, passed = 0; // marks that were made, and that the stream has come to
    double at = 0;
    Stream* stream = nullptr;
    Graph* graph = nullptr; // the capture in which the last mark lies
    Context* owner = nullptr;
};

struct Stream {
    std::deque<Work> work;
    std::shared_ptr<Graph> capture;
    bool origin = false; // the capture was begun in this stream
    Context* owner = nullptr;
};

struct Function {
    simulator::Kernel* kernel;
    int shared = shared_free;
};

struct Module {
    std::map<std::string, std::unique_ptr<Function>> functions;
    Context* owner = nullptr;
};

bool lazy_by_default() { return getenv("SIMULATOR_LAZY") != nullptr; }

// Driver is all that the library knows of this process.
struct Driver {
    std::recursive_mutex mutex;
    bool started = false, lazy = lazy_by_default();
    Context contexts[most_devices];
    pthread_key_t current;
    std::map<Address, Range> reserved;
    std::map<Address, Mapping> mapped;
    std::map<Address, Physical> physical;
    Address next_handle = 1;
    std::map<Address, Range> host;
    std::map<Stream*, std::unique_ptr<Stream>> streams;
    std::map<Event*, std::shared_ptr<Event>> events;
    std::map<Module*, std::unique_ptr<Module>> modules;
    std::map<Function*, Function*> functions; // of all modules
    std::map<Graph*, std::shared_ptr<Graph>> graphs;
    std::map<Graph*, std::shared_ptr<Graph>> executables;
    simulator::Faults faults;

    Driver() {
        pthread_key_create(&current, nullptr);
        faults_by_default();
    }

    // faults_by_default sets those that the environment asks for.
    void faults_by_default() {
        faults.clear();
        const char* text = getenv("SIMULATOR_FAULTS");
        if (!text || faults.add(text)) return;
        fprintf(stderr, "simulator: SIMULATOR_FAULTS is no list of faults: %s\n", text);
        abort();
    }
};

Driver& dev() {
    static Driver* d = new Driver; // never ended: other threads may still call when the process ends
    return *d;
}

enum Needs { nothing, started, context };

// enter counts a call, and says what becomes of it.
int enter(const char* name, Needs needs, std::unique_lock<std::recursive_mutex>& lock) {
    Driver& d = dev();
    simulator::tick();
    simulator::Fault f = d.faults.next(name);
    if (f.kind == simulator::Fault::fail) return f.code;
    if (f.kind == simulator::Fault::hang) {
        lock.unlock(); // other threads may go on
        for (;;) pause();
    }
    if (f.kind == simulator::Fault::lose) {
        for (Context& c : d.contexts) c.lost = f.code;
    }
    if (needs == nothing) return success;
    if (!d.started) return not_initialized;
    if (needs == started) return success;
    auto* c = static_cast<Context*>(pthread_getspecific(d.current));
    return c ? c->lost : invalid_context;
}

#define ENTER(needs)                                      \
    Driver& d = dev();                                    \
    std::unique_lock<std::recursive_mutex> lock(d.mutex); \
    if (int code = enter(__func__, needs, lock)) return code

#define API extern "C" __attribute__((visibility("default"))) int

template <class Map, class Key> auto* find(Map& m, Key k) {
    auto i = m.find(k);
    return i == m.end() ? nullptr : &i->second;
}

Context& here() { return *static_cast<Context*>(pthread_getspecific(dev().current)); }

bool there(int device) { return device >= 0 && device < devices().count; }

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool multiple(Address v) { return v % granularity == 0; }

// accessible says whether the program may use these addresses of the device.
bool accessible(Address at, size_t bytes) {
    Driver& d = dev();
    while (bytes) {
        auto i = d.mapped.upper_bound(at);
        if (i == d.mapped.begin()) return false;
        --i;
        Address end = i->first + i->second.bytes;
        if (at >= end || !i->second.open) return false;
        size_t here = std::min<Address>(bytes, end - at);
        at += here;
        bytes -= here;
    }
    return true;
}

bool pinned(const void* p, size_t bytes) {
    Driver& d = dev();
    Address at = (Address)p;
    auto i = d.host.upper_bound(at);
    return i != d.host.begin() && (--i, at + bytes <= i->first + i->second.bytes);
}

// step runs the oldest work of a stream. An error of it makes the device unusable, as on a GPU.
void step(Stream& s) {
    Work w = std::move(s.work.front());
    s.work.pop_front();
    int code = s.owner->lost ? s.owner->lost : w();
    if (code) s.owner->lost = code;
}

int drain(Stream& s) {
    while (!s.work.empty()) step(s);
    return s.owner->lost;
}

void drain_all() {
    for (auto& s : dev().streams) drain(*s.second);
}

int put(Stream& s, Work w) {
    Driver& d = dev();
    if (s.capture) {
        s.capture->work.push_back(std::move(w));
        return success;
    }
    s.work.push_back(std::move(w));
    if (!d.lazy) drain(s);
    return success; // the error of the work shows later
}

bool capturing() {
    for (auto& s : dev().streams) {
        if (s.second->capture) return true;
    }
    return false;
}

void release(Address handle) {
    Driver& d = dev();
    Physical& p = d.physical[handle];
    if (p.maps || !p.released) return;
    close(p.file);
    simulator::give(p.device, p.bytes);
    d.physical.erase(handle);
}

// forget takes from a map what belongs to a context.
template <class Map> void forget(Map& m, Context* owner) {
    for (auto i = m.begin(); i != m.end();) i = i->second->owner == owner ? m.erase(i) : std::next(i);
}

// destroy ends what a context that was lost still has: its program could not give it back.
void destroy(Context* c) {
    Driver& d = dev();
    for (auto m = d.mapped.begin(); m != d.mapped.end();) {
        Physical& p = d.physical[m->second.handle];
        if (p.device != c - d.contexts) {
            ++m;
            continue;
        }
        mmap((void*)m->first, m->second.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        p.maps--;
        m = d.mapped.erase(m);
    }
    for (auto p = d.physical.begin(); p != d.physical.end();) {
        Address handle = p->first;
        bool own = p->second.device == c - d.contexts;
        if (own) p->second.released = true;
        ++p;
        if (own) release(handle);
    }
    for (auto r = d.reserved.begin(); r != d.reserved.end();) {
        bool own = r->second.owner == c;
        if (own) munmap((void*)r->first, r->second.bytes + granularity);
        r = own ? d.reserved.erase(r) : std::next(r);
    }
    for (auto h = d.host.begin(); h != d.host.end();) {
        bool own = h->second.owner == c;
        if (own) munmap((void*)h->first, h->second.bytes);
        h = own ? d.host.erase(h) : std::next(h);
    }
    for (auto& e : d.events) {
        if (e.second->stream && e.second->stream->owner == c) e.second->stream = nullptr;
    }
    for (auto& m : d.modules) {
        if (m.second->owner != c) continue;
        for (auto& f : m.second->functions) d.functions.erase(f.second.get());
    }
    forget(d.streams, c);
    forget(d.events, c);
    forget(d.modules, c);
    forget(d.graphs, c);
    forget(d.executables, c);
}

int text_to(char* to, int bytes, const char* text) {
    if (!to || bytes < 1) return invalid_value;
    snprintf(to, bytes, "%s", text);
    return success;
}

} // namespace

// Start and devices.

API cuInit(unsigned flags) {
    ENTER(nothing);
    if (flags) return invalid_value;
    if (devices().count == 0) return no_device;
    if (const char* visible = getenv("CUDA_VISIBLE_DEVICES")) {
        if (*visible < '0' || *visible > '9') return no_device; // other choices are not simulated
    }
    simulator::start();
    d.started = true;
    return success;
}

API cuDriverGetVersion(int* version) {
    ENTER(nothing);
    *version = devices().cuda;
    return success;
}

API cuDeviceGetCount(int* n) {
    ENTER(started);
    *n = devices().count;
    return success;
}

API cuDeviceGet(int* device, int ordinal) {
    ENTER(started);
    if (!there(ordinal)) return invalid_device;
    *device = ordinal;
    return success;
}

API cuDeviceGetName(char* to, int bytes, int device) {
    ENTER(started);
    return there(device) ? text_to(to, bytes, "Simulator") : invalid_device;
}

API cuDeviceGetPCIBusId(char* to, int bytes, int device) {
    ENTER(started);
    return there(device) ? text_to(to, bytes, ("0000:0" + std::to_string(device) + ":00.0").c_str()) : invalid_device;
}

API cuDeviceGetUuid(char* to, int device) {
    ENTER(started);
    if (!there(device)) return invalid_device;
    simulator::uuid((unsigned char*)to, device, false);
    return success;
}

API cuDeviceGetUuid_v2(char* to, int device) {
    ENTER(started);
    if (!there(device)) return invalid_device;
    simulator::uuid((unsigned char*)to, device, devices().slices);
    return success;
}

API cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ENTER(started);
    if (!there(device)) return invalid_device;
    *bytes = devices().capacity;
    return success;
}

API cuDeviceGetAttribute(int* value, int attribute, int device) {
    ENTER(started);
    if (!there(device)) return invalid_device;
    switch (attribute) {
    case 1: *value = 1024; break;        // threads of a block
    case 8: *value = shared_free; break; // shared memory of a block
    case 10: *value = 32; break;         // threads of a warp
    case 12: *value = 65536; break;      // registers of a block
    case 16: *value = devices().multiprocessors; break;
    case 38: *value = 50 << 20; break;   // L2 cache
    case 39: *value = 2048; break;       // threads of a multiprocessor
    case 75: *value = devices().major; break;
    case 76: *value = devices().minor; break;
    case 81: *value = shared_all; break;    // shared memory of a multiprocessor
    case 97: *value = shared_opt_in; break; // shared memory of a block that asks for it
    case 102: *value = 1; break;            // virtual memory management
    default: *value = 0;
    }
    return success;
}

// Contexts.

API cuDevicePrimaryCtxRetain(Context** c, int device) {
    ENTER(started);
    if (!there(device)) return invalid_device;
    *c = &d.contexts[device];
    if ((*c)->lost) return (*c)->lost;
    if ((*c)->users == 0) {
        size_t overhead = devices().context;
        if (!simulator::take(device, overhead, true)) return out_of_memory;
        **c = {0, 0, overhead};
    }
    (*c)->users++;
    return success;
}

API cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER(started);
    if (!there(device)) return invalid_device;
    Context& c = d.contexts[device];
    if (c.users == 0) return invalid_context;
    if (--c.users) return success;
    drain_all();
    if (c.lost) destroy(&c);
    simulator::give(device, c.overhead, true);
    return success;
}

API cuCtxGetCurrent(Context** c) {
    ENTER(started);
    *c = static_cast<Context*>(pthread_getspecific(d.current));
    return success;
}

API cuCtxSetCurrent(Context* c) {
    ENTER(started);
    if (c && (c < d.contexts || c >= d.contexts + devices().count || c->users == 0)) return invalid_context;
    pthread_setspecific(d.current, c);
    return success;
}

// Half of what a context takes at first is for stacks of 1024 bytes, about as on a GPU.
API cuCtxSetLimit(int limit, size_t value) {
    ENTER(context);
    if (limit != 0) return unsupported_limit;
    if (capturing()) return capture_unsupported;
    Context& c = here();
    size_t base = devices().context / 2, overhead = base + base * value / 1024;
    if (!simulator::resize(&c - d.contexts, c.overhead, overhead)) return out_of_memory;
    c.overhead = overhead;
    return success;
}

API cuCtxSynchronize() {
    ENTER(context);
    if (capturing()) return capture_unsupported;
    drain_all();
    return here().lost;
}

// Memory.

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER(context);
    simulator::Locked shared;
    shared->bury();
    *free = shared->free(&here() - d.contexts);
    *total = shared->capacity;
    return success;
}

namespace {
struct Allocation {
    int kind, handles, place, device;
    void* windows;
    unsigned char flags[8];
};

struct Access {
    int place, device, flags;
};

// physical makes a file of memory, and gives -1 if the host has none.
int physical(size_t bytes) {
    int file = memfd_create("device", MFD_CLOEXEC);
    bool made = file >= 0 && ftruncate(file, bytes) == 0;
    // A GPU's memory begins with what an earlier program left. Very large pieces are left out to save the host's memory.
    static const std::string rubbish(granularity, '\xff');
    for (size_t at = 0; made && at < bytes && bytes <= (256 << 20); at += granularity) {
        made = pwrite(file, rubbish.data(), granularity, at) == (ssize_t)granularity;
    }
    if (made || file < 0) return file;
    close(file);
    return -1;
}
} // namespace

API cuMemGetAllocationGranularity(size_t* bytes, const Allocation* a, int option) {
    ENTER(started);
    if (a->kind != 1 || a->place != 1 || !there(a->device) || option < 0 || option > 1) return invalid_value;
    *bytes = granularity;
    return success;
}

API cuMemAddressReserve(Address* at, size_t bytes, size_t align, Address hint, unsigned long long flags) {
    ENTER(context);
    if (bytes == 0 || !multiple(bytes) || (align & (align - 1)) || hint || flags) return invalid_value;
    align = std::max(align, granularity);
    size_t all = bytes + align + granularity; // something unmapped stays around the range
    char* p = static_cast<char*>(mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (p == MAP_FAILED) return out_of_memory;
    Address start = ((Address)p + align - 1) / align * align;
    if (start > (Address)p) munmap(p, start - (Address)p);
    Address end = start + bytes + granularity; // the piece behind is given back with the range
    if (end < (Address)p + all) munmap((void*)end, (Address)p + all - end);
    d.reserved[start] = {bytes, &here()};
    *at = start;
    return success;
}

API cuMemAddressFree(Address at, size_t bytes) {
    ENTER(context);
    Range* r = find(d.reserved, at);
    if (!r || r->bytes != bytes) return invalid_value;
    auto m = d.mapped.lower_bound(at);
    if (m != d.mapped.end() && m->first < at + bytes) return invalid_value;
    munmap((void*)at, bytes + granularity);
    d.reserved.erase(at);
    return success;
}

API cuMemCreate(Address* handle, size_t bytes, const Allocation* a, unsigned long long flags) {
    ENTER(context);
    if (bytes == 0 || !multiple(bytes) || a->kind != 1 || a->place != 1 || !there(a->device) || flags) return invalid_value;
    if (!simulator::take(a->device, bytes)) {
        devices().refusals++;
        return out_of_memory;
    }
    int file = physical(bytes);
    if (file < 0) {
        simulator::give(a->device, bytes);
        return out_of_memory;
    }
    *handle = d.next_handle++;
    d.physical[*handle] = {file, a->device, bytes, 0, false};
    return success;
}

API cuMemRelease(Address handle) {
    ENTER(context);
    Physical* p = find(d.physical, handle);
    if (!p || p->released) return invalid_value;
    p->released = true;
    release(handle);
    return success;
}

API cuMemMap(Address at, size_t bytes, size_t offset, Address handle, unsigned long long flags) {
    ENTER(context);
    Physical* p = find(d.physical, handle);
    if (!p || p->released || offset || flags || bytes != p->bytes || !multiple(at)) return invalid_value;
    auto r = d.reserved.upper_bound(at);
    if (r == d.reserved.begin() || (--r, at + bytes > r->first + r->second.bytes)) return invalid_value;
    auto m = d.mapped.lower_bound(at + bytes);
    if (m != d.mapped.begin() && (--m, m->first + m->second.bytes > at)) return invalid_value; // something is there
    if (mmap((void*)at, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, p->file, 0) == MAP_FAILED) return out_of_memory;
    p->maps++;
    d.mapped[at] = {bytes, handle, false};
    return success;
}

namespace {
// whole says whether a range is made of whole mappings.
bool whole(Address at, size_t bytes) {
    Driver& d = dev();
    for (Address end = at + bytes; at < end;) {
        Mapping* m = find(d.mapped, at);
        if (!m) return false;
        at += m->bytes;
        if (at > end) return false;
    }
    return bytes > 0;
}
} // namespace

API cuMemSetAccess(Address at, size_t bytes, const Access* a, size_t n) {
    ENTER(context);
    if (n != 1 || a->place != 1 || !there(a->device) || a->flags != 3 || !whole(at, bytes)) return invalid_value;
    if (mprotect((void*)at, bytes, PROT_READ | PROT_WRITE)) return invalid_value;
    for (auto m = d.mapped.find(at); m != d.mapped.end() && m->first < at + bytes; ++m) m->second.open = true;
    return success;
}

API cuMemUnmap(Address at, size_t bytes) {
    ENTER(context);
    if (!whole(at, bytes)) return invalid_value;
    if (mmap((void*)at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) return out_of_memory;
    for (auto m = d.mapped.find(at); m != d.mapped.end() && m->first < at + bytes; m = d.mapped.erase(m)) {
        d.physical[m->second.handle].maps--;
        release(m->second.handle);
    }
    return success;
}

API cuMemHostAlloc(void** p, size_t bytes, unsigned flags) {
    ENTER(context);
    if (bytes == 0 || flags > 7) return invalid_value;
    void* m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) return out_of_memory;
    d.host[(Address)m] = {bytes, &here()};
    *p = m;
    return success;
}

API cuMemFreeHost(void* p) {
    ENTER(context);
    Range* r = find(d.host, (Address)p);
    if (!r) return invalid_value;
    drain_all();
    munmap(p, r->bytes);
    d.host.erase((Address)p);
    return success;
}

// Streams and events.

API cuStreamCreate(Stream** s, unsigned flags) {
    ENTER(context);
    if (flags > 1) return invalid_value;
    auto made = std::make_unique<Stream>();
    made->owner = &here();
    *s = made.get();
    d.streams[*s] = std::move(made);
    return success;
}

API cuStreamDestroy_v2(Stream* s) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    drain(*s);
    for (auto& e : d.events) {
        if (e.second->stream == s) e.second->stream = nullptr;
    }
    d.streams.erase(s);
    return success;
}

API cuStreamSynchronize(Stream* s) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    if (s->capture) return capture_unsupported;
    return drain(*s);
}

API cuEventCreate(Event** e, unsigned flags) {
    ENTER(context);
    if (flags & ~3u) return invalid_value;
    auto made = std::make_shared<Event>();
    made->owner = &here();
    made->timing = !(flags & 2);
    *e = made.get();
    d.events[*e] = made;
    return success;
}

API cuEventDestroy_v2(Event* e) {
    ENTER(context);
    return d.events.erase(e) ? success : invalid_handle;
}

API cuEventRecord(Event* e, Stream* s) {
    ENTER(context);
    auto* p = find(d.events, e);
    if (!p || !find(d.streams, s)) return invalid_handle;
    e->graph = s->capture.get();
    if (s->capture) return success; // only other streams of the capture may wait for it
    e->stream = s;
    unsigned mark = ++e->recorded;
    return put(*s, [e = *p, mark] {
        e->passed = mark;
        e->at = now();
        return success;
    });
}

API cuStreamWaitEvent(Stream* s, Event* e, unsigned flags) {
    ENTER(context);
    auto* p = find(d.events, e);
    if (!p || !find(d.streams, s)) return invalid_handle;
    if (flags) return invalid_value;
    if (e->graph) { // the stream joins the capture
        for (auto& other : d.streams) {
            if (other.second->capture.get() != e->graph) continue;
            if (s->capture && s->capture != other.second->capture) return capture_unmatched;
            s->capture = other.second->capture;
            return success;
        }
        return capture_unmatched;
    }
    if (s->capture) return capture_implicit;
    if (e->passed == e->recorded) return success;
    return put(*s, [e = *p, mark = e->recorded] {
        while (e->passed < mark && e->stream && !e->stream->work.empty()) step(*e->stream);
        return success;
    });
}

API cuEventSynchronize(Event* e) {
    ENTER(context);
    if (!find(d.events, e)) return invalid_handle;
    if (e->graph) return capture_unsupported;
    while (e->passed < e->recorded && e->stream && !e->stream->work.empty()) step(*e->stream);
    return here().lost;
}

API cuEventQuery(Event* e) {
    ENTER(context);
    if (!find(d.events, e)) return invalid_handle;
    if (e->graph) return capture_unsupported;
    if (e->passed == e->recorded) return success;
    if (e->stream && !e->stream->work.empty()) step(*e->stream); // repeated queries make progress
    return not_ready;
}

API cuEventElapsedTime(float* milliseconds, Event* from, Event* to) {
    ENTER(context);
    if (!find(d.events, from) || !find(d.events, to) || !from->timing || !to->timing || !from->recorded || !to->recorded) return invalid_handle;
    if (from->passed < from->recorded || to->passed < to->recorded) return not_ready;
    *milliseconds = (float)((to->at - from->at) * 1e3);
    return success;
}

// Copies.

API cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* s) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    if (!accessible(to, bytes)) return invalid_value;
    if (pinned(from, bytes)) {
        return put(*s, [=] {
            if (!accessible(to, bytes)) return 700;
            memcpy((void*)to, from, bytes);
            return 0;
        });
    }
    if (s->capture) return capture_unsupported; // the memory may be gone when the graph runs
    auto copy = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
    return put(*s, [=] {
        if (!accessible(to, bytes)) return 700;
        memcpy((void*)to, copy->data(), bytes);
        return 0;
    });
}

API cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* s) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    if (!accessible(from, bytes)) return invalid_value;
    bool lasting = pinned(to, bytes);
    if (s->capture && !lasting) return capture_unsupported;
    put(*s, [=] {
        if (!accessible(from, bytes)) return 700;
        memcpy(to, (void*)from, bytes);
        return 0;
    });
    return lasting ? success : drain(*s);
}

API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* s) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    if (!accessible(to, bytes) || !accessible(from, bytes)) return invalid_value;
    if (to < from + bytes && from < to + bytes) return invalid_value; // undefined on a GPU
    return put(*s, [=] {
        if (!accessible(to, bytes) || !accessible(from, bytes)) return 700;
        memcpy((void*)to, (void*)from, bytes);
        return 0;
    });
}

API cuMemsetD8Async(Address to, unsigned char value, size_t n, Stream* s) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    if (!accessible(to, n)) return invalid_value;
    return put(*s, [=] {
        if (!accessible(to, n)) return 700;
        memset((void*)to, value, n);
        return 0;
    });
}

API cuMemsetD32Async(Address to, unsigned value, size_t n, Stream* s) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    if (!accessible(to, n * 4) || to % 4) return invalid_value;
    return put(*s, [=] {
        if (!accessible(to, n * 4)) return 700;
        std::fill_n((unsigned*)to, n, value);
        return 0;
    });
}

// Kernels. Each module has all that the library was built with, whatever its image.

namespace {
const std::map<std::string, simulator::Kernel*>& kernels() {
    static auto* table = [] {
        auto* t = new std::map<std::string, simulator::Kernel*>;
        for (simulator::Kernel* k = simulator::first(); k; k = k->next) {
            if (!t->emplace(k->name, k).second) {
                fprintf(stderr, "simulator: there are two kernels of the name %s\n", k->name);
                t->clear();
                break;
            }
        }
        return t;
    }();
    return *table;
}
} // namespace

API cuModuleLoadDataEx(Module** m, const void* image, unsigned n, int* options, void** values) {
    ENTER(context);
    if (!image || !*static_cast<const char*>(image)) {
        for (unsigned i = 0; i + 1 < n; i++) {
            if (options[i] == 5) snprintf(static_cast<char*>(values[i]), (size_t)values[i + 1], "the simulator takes any image but an empty one");
        }
        return invalid_image;
    }
    if (kernels().empty()) return invalid_image;
    auto made = std::make_unique<Module>();
    made->owner = &here();
    *m = made.get();
    d.modules[*m] = std::move(made);
    return success;
}

API cuModuleUnload(Module* m) {
    ENTER(context);
    if (!find(d.modules, m)) return invalid_handle;
    drain_all();
    for (auto& f : m->functions) d.functions.erase(f.second.get());
    d.modules.erase(m);
    return success;
}

API cuModuleGetFunction(Function** f, Module* m, const char* name) {
    ENTER(context);
    if (!find(d.modules, m)) return invalid_handle;
    auto& made = m->functions[name];
    if (!made) {
        auto* k = find(kernels(), name);
        if (!k) {
            m->functions.erase(name);
            return not_found;
        }
        made = std::make_unique<Function>();
        made->kernel = *k;
        d.functions[made.get()] = made.get();
    }
    *f = made.get();
    return success;
}

API cuFuncGetAttribute(int* value, int attribute, Function* f) {
    ENTER(context);
    if (!find(d.functions, f)) return invalid_handle;
    switch (attribute) {
    case 0: *value = f->kernel->threads; break;
    case 4: *value = 32; break; // registers
    case 5: case 6: *value = 10 * devices().major + devices().minor; break;
    case 8: *value = f->shared; break;
    default: *value = 0;
    }
    return success;
}

API cuFuncSetAttribute(Function* f, int attribute, int value) {
    ENTER(context);
    if (!find(d.functions, f)) return invalid_handle;
    if (attribute != 8 && attribute != 9) return invalid_value;
    if (attribute == 9) return success;
    if (value < 0 || value > (int)shared_opt_in) return invalid_value;
    f->shared = std::max<int>(value, shared_free);
    return success;
}

API cuFuncGetParamInfo(Function* f, size_t index, size_t* offset, size_t* size) {
    ENTER(context);
    if (!find(d.functions, f)) return invalid_handle;
    if (index > 0) return invalid_value;
    *offset = 0;
    *size = f->kernel->bytes;
    return success;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* f, int threads, size_t shared) {
    ENTER(context);
    if (!find(d.functions, f)) return invalid_handle;
    if (threads < 1) return invalid_value;
    threads = (threads + 31) / 32 * 32;
    *blocks = shared > (size_t)f->shared || threads > 1024 ? 0 : std::min({2048 / threads, 32, (int)(shared_all / (shared + 1024))});
    return success;
}

API cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream* s,
                   void** params, void** extra) {
    ENTER(context);
    if (!find(d.functions, f) || !find(d.streams, s)) return invalid_handle;
    if (gx < 1 || gy < 1 || gz < 1 || gx > INT_MAX || gy > 65535 || gz > 65535 || bx < 1 || by < 1 || bz < 1 || bx > 1024 || by > 1024 ||
        bz > 64 || bx * by * bz > 1024 || !params || extra || shared > (unsigned)f->shared) {
        return invalid_value;
    }
    if (bx * by * bz > f->kernel->threads) return out_of_resources;
    std::string copy(static_cast<const char*>(params[0]), f->kernel->bytes);
    simulator::Kernel* k = f->kernel;
    int device = &here() - d.contexts;
    return put(*s, [=] {
        // Parameters are aligned as the widest of the device's types.
        alignas(16) char aligned[4096];
        if (copy.size() > sizeof aligned) return (int)invalid_value;
        memcpy(aligned, copy.data(), copy.size());
        devices().launches[device].fetch_add(1, std::memory_order_relaxed);
        return simulator::launch(*k, dim3(gx, gy, gz), dim3(bx, by, bz), shared, aligned);
    });
}

// Graphs.

API cuStreamBeginCapture_v2(Stream* s, int mode) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    if (mode < 0 || mode > 2 || s->capture) return invalid_value;
    s->capture = std::make_shared<Graph>();
    s->capture->owner = &here();
    s->origin = true;
    return success;
}

API cuStreamEndCapture(Stream* s, Graph** g) {
    ENTER(context);
    if (!find(d.streams, s)) return invalid_handle;
    if (!s->capture || !s->origin) return 901;
    auto graph = s->capture;
    for (auto& other : d.streams) {
        if (other.second->capture == graph) other.second->capture.reset();
    }
    for (auto& e : d.events) {
        if (e.second->graph == graph.get()) e.second->graph = nullptr;
    }
    s->origin = false;
    *g = graph.get();
    d.graphs[*g] = graph;
    return success;
}

API cuGraphInstantiateWithFlags(Graph** x, Graph* g, unsigned long long flags) {
    ENTER(context);
    if (!find(d.graphs, g)) return invalid_handle;
    if (flags) return invalid_value;
    auto copy = std::make_shared<Graph>(*g);
    *x = copy.get();
    d.executables[*x] = copy;
    return success;
}

API cuGraphLaunch(Graph* x, Stream* s) {
    ENTER(context);
    auto* p = find(d.executables, x);
    if (!p || !find(d.streams, s)) return invalid_handle;
    return put(*s, [graph = *p] {
        for (auto& w : graph->work) {
            if (int code = w()) return code;
        }
        return 0;
    });
}

API cuGraphDestroy(Graph* g) {
    ENTER(context);
    return d.graphs.erase(g) ? success : invalid_handle;
}

API cuGraphExecDestroy(Graph* x) {
    ENTER(context);
    return d.executables.erase(x) ? success : invalid_handle;
}

// What tests set of this process, and ask. simulator_reset takes all of it back, and what they have set of devices that are its own.

#define CONTROL(type) extern "C" __attribute__((visibility("default"))) type

namespace {
struct Locked {
    Driver& d = dev();
    std::lock_guard<std::recursive_mutex> lock{d.mutex};
    Driver* operator->() { return &d; }
};
} // namespace

// simulator_join makes the devices of a file those of this process, which must not use any; an empty path is its own ones. It gives 0 or
// an error of the system.
CONTROL(int) simulator_join(const char* path) {
    Locked d;
    for (const Context& c : d->contexts) {
        if (c.users) return EBUSY;
    }
    return d->physical.empty() ? simulator::join(path) : EBUSY;
}

// simulator_fault adds faults (faults.h). It gives 1 for a text of another form.
CONTROL(int) simulator_fault(const char* text) { return !Locked()->faults.add(text); }

// simulator_calls counts the calls of a function, or, for an empty name, of all.
CONTROL(size_t) simulator_calls(const char* name) { return Locked()->faults.count(name); }

// simulator_lose_device makes all calls fail until simulator_reset; the memory is free when the context is given back by all its users.
CONTROL(void) simulator_lose_device() {
    Locked d;
    for (Context& c : d->contexts) c.lost = launch_failed;
}

// simulator_set_lazy makes streams wait as long as they may (1) or run at once (0).
CONTROL(void) simulator_set_lazy(int lazy) {
    Locked d;
    drain_all();
    d->lazy = lazy;
}

// simulator_host is the pinned memory of the process.
CONTROL(size_t) simulator_host() {
    Locked d;
    size_t sum = 0;
    for (auto& h : d->host) sum += h.second.bytes;
    return sum;
}

// simulator_handles counts the streams, events, modules and graphs that were not destroyed.
CONTROL(size_t) simulator_handles() {
    Locked d;
    return d->streams.size() + d->events.size() + d->modules.size() + d->graphs.size() + d->executables.size();
}

CONTROL(void) simulator_reset() {
    Locked d;
    drain_all();
    d->faults_by_default();
    for (Context& c : d->contexts) c.lost = 0;
    d->lazy = lazy_by_default();
    if (simulator::joined()) return; // other processes use them
    simulator::Locked shared;
    shared->settle();
}
