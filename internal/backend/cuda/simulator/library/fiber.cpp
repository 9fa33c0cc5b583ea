// Runs kernels: blocks on a few threads of the system, each thread of a block as a fiber with a stack of its own. A fiber runs until it
// waits at a barrier or for its warp, and then gives way to another. Those that never wait share one stack and run one after another.
// What a GPU would leave to chance is made visible: shared memory is poisoned before each block, blocks take their threads in alternating
// order, and threads that wait for others which never come are an error, as are faults of memory, misaligned addresses and indices out
// of range.
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "fiber.h" // last: its words (__shared__ and others) are those of kernels

namespace simulator {

thread_local Thread* current;

namespace {

const size_t stack_bytes = 128 << 10, page = 4096, shared_bytes = 256 << 10;
const unsigned most_threads = 1024;

// A context is the state in which a fiber goes on: on x86-64 its stack pointer with the registers that calls preserve on top of the stack.
#if defined(__x86_64__)
extern "C" void simulator_switch(void** save, void* load);
asm(R"(
.text
.local simulator_switch
.type simulator_switch, @function
simulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simulator_switch, .-simulator_switch
)");

void switch_context(void** save, void* load) { simulator_switch(save, load); }

void* make_context(char* top, void (*run)()) {
    void** at = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~(uintptr_t)63);
    *--at = nullptr; // run returns to nowhere, and sees the stack as after a call
    *--at = reinterpret_cast<void*>(run);
    for (int i = 0; i < 6; i++) *--at = nullptr;
    return at;
}
#else
void switch_context(void** save, void* load) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(load));
}

void* make_context(char* top, void (*run)()) {
    top -= sizeof(ucontext_t) + 64;
    ucontext_t* c = reinterpret_cast<ucontext_t*>(reinterpret_cast<uintptr_t>(top) & ~(uintptr_t)63);
    getcontext(c);
    c->uc_stack.ss_sp = reinterpret_cast<char*>(c) - stack_bytes / 2;
    c->uc_stack.ss_size = stack_bytes / 2;
    c->uc_link = nullptr;
    makecontext(c, run, 0);
    return c;
}
#endif

enum State { running, at_barrier, meeting, ended };
enum Meeting { wait, exchanging, voting };

struct Worker;

struct Strand : Thread {
    Worker* worker;
    void* context; // where it goes on; null: it has not begun
    State state;
    Meeting meeting;
    unsigned mask;
    int from;
    uint64_t value, result;
};

// Job is a launch.
struct Job {
    Kernel* kernel;
    dim3 grid, threads;
    size_t shared;
    const void* params;
    uint64_t blocks;
    std::atomic<uint64_t> next{0};
    std::atomic<int> error{0};
};

struct Worker {
    Block block;
    Job* job;
    std::vector<Strand> strands;
    unsigned count, warps;          // threads of a block, and their warps
    unsigned ready[32], ready_warps; // a bit for each thread that can run, and for each warp that has one
    unsigned met[32];               // a bit for each thread that waits for its warp
    unsigned waiting, done;
    int sum, total; // of the barrier that fills, and of the last one
    bool descending;
    bool running;

    char* stacks;
    std::vector<unsigned> free;
    unsigned fresh; // the stack of the fiber that begins
    void* main;     // where the worker goes on
    char* shared_end;
    char* locals; // all that is thread_local in this library: current, and the shared memory of all kernels
    size_t locals_bytes;

    Worker() : strands(most_threads), running(false) {
        stacks = static_cast<char*>(mmap(nullptr, most_threads * stack_bytes, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        char* shared = static_cast<char*>(mmap(nullptr, shared_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (stacks == MAP_FAILED || shared == MAP_FAILED) {
            perror("simulator: no memory for stacks");
            abort();
        }
        for (unsigned i = 0; i < most_threads; i++) {
            mprotect(stacks + i * stack_bytes, page, PROT_NONE);
            free.push_back(most_threads - 1 - i);
        }
        shared_end = shared + shared_bytes;
        mprotect(shared_end, page, PROT_NONE); // what writes past its dynamic shared memory faults
        current = nullptr;                     // the system makes thread_local memory when it is first used
        locals = nullptr;
        dl_iterate_phdr(
            [](dl_phdr_info* info, size_t, void* data) {
                Worker& w = *static_cast<Worker*>(data);
                char *tls = static_cast<char*>(info->dlpi_tls_data), *mine = reinterpret_cast<char*>(&current);
                for (int i = 0; tls && i < info->dlpi_phnum; i++) {
                    size_t bytes = info->dlpi_phdr[i].p_memsz;
                    if (info->dlpi_phdr[i].p_type == PT_TLS && tls <= mine && mine < tls + bytes) w.locals = tls, w.locals_bytes = bytes;
                }
                return 0;
            },
            this);
    }

    void run(Job& j);
    void begin(uint64_t number);
    Strand* pick(unsigned from);
    void stuck();
    void learn();
    void release(unsigned warp, unsigned lanes) {
        ready[warp] |= lanes;
        ready_warps |= 1u << warp;
    }
};

Strand& self() { return *static_cast<Strand*>(current); }

// body runs threads on one stack: one that has begun on it, then others that have not begun, until one that has goes on elsewhere.
void body() {
    Worker& w = *self().worker;
    unsigned stack = w.fresh;
    void* nowhere;
    for (;;) {
        w.job->kernel->run(w.job->params);
        self().state = ended;
        if (++w.done == w.count) {
            w.free.push_back(stack);
            switch_context(&nowhere, w.main);
        }
        Strand* next = w.pick(current->linear);
        current = next;
        if (next->context) {
            w.free.push_back(stack);
            void* to = next->context;
            next->context = nullptr;
            switch_context(&nowhere, to);
        }
    }
}

// go continues with a thread, from a context that is saved.
void go(Worker& w, void** save, Strand* next) {
    current = next;
    void* to = next->context;
    next->context = nullptr;
    if (!to) {
        w.fresh = w.free.back();
        w.free.pop_back();
        // Tops of stacks lie at different offsets, or they would share a few lines of the cache.
        to = make_context(w.stacks + (w.fresh + 1) * stack_bytes - w.fresh % 61 * 64, body);
    }
    switch_context(save, to);
}

void suspend(Strand& t) {
    Worker& w = *t.worker;
    Strand* next = w.pick(t.linear);
    go(w, &t.context, next);
    t.state = running;
}

// pick takes a thread that can run, from the same warp if there is one.
Strand* Worker::pick(unsigned from) {
    unsigned warp = from / 32;
    if (!ready[warp]) {
        if (!ready_warps) stuck();
        warp = descending ? 31 - __builtin_clz(ready_warps) : __builtin_ctz(ready_warps);
    }
    unsigned lane = descending ? 31 - __builtin_clz(ready[warp]) : __builtin_ctz(ready[warp]);
    ready[warp] &= ~(1u << lane);
    if (!ready[warp]) ready_warps &= ~(1u << warp);
    return &strands[warp * 32 + lane];
}

void Worker::stuck() {
    unsigned counts[4] = {};
    for (unsigned i = 0; i < count; i++) counts[strands[i].state]++;
    fail(719, "%u threads wait in __syncthreads and %u for their warp, while %u have ended: all must come, none may leave before",
         counts[at_barrier], counts[meeting], counts[ended]);
}

// begin prepares the block of that number.
void Worker::begin(uint64_t number) {
    Kernel& k = *job->kernel;
    const dim3& g = job->grid;
    block.block = {(unsigned)(number % g.x), (unsigned)(number / g.x % g.y), (unsigned)(number / g.x / g.y)};
    descending = (number + k.launches) & 1;
    waiting = done = 0;
    sum = 0;
    for (unsigned i = 0; i < count; i++) strands[i].state = simulator::running;
    for (unsigned i = 0; i < warps; i++) {
        unsigned lanes = count - i * 32;
        ready[i] = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        met[i] = 0;
    }
    ready_warps = warps == 32 ? ~0u : (1u << warps) - 1;
    if (job->shared) memset(block.shared, 0xff, job->shared);
    if (locals && k.high > k.low) memset(locals + k.low, 0xff, k.high - k.low);
}

// learn finds what a block has written of the shared memory, all of which was poisoned before.
void Worker::learn() {
    size_t self = reinterpret_cast<char*>(&current) - locals, low = 0, high = locals_bytes;
    auto poisoned = [&](size_t at) { // 8 bytes
        uint64_t word;
        memcpy(&word, locals + at, 8);
        return word == ~(uint64_t)0 || (at + 8 > self && at < self + sizeof current);
    };
    while (low + 8 <= high && poisoned(low)) low += 8;
    while (high >= low + 8 && poisoned(high - 8)) high -= 8;
    if (high < low + 8) return; // nothing but, at most, a few bytes at the end
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    job->kernel->low = std::min(job->kernel->low, low);
    job->kernel->high = std::max(job->kernel->high, high);
}

void Worker::run(Job& j) {
    job = &j;
    block.threads = j.threads;
    block.grid = j.grid;
    block.shared = shared_end - (j.shared + 127) / 128 * 128;
    count = j.threads.x * j.threads.y * j.threads.z;
    warps = (count + 31) / 32;
    for (unsigned i = 0; i < count; i++) {
        Strand& t = strands[i];
        t.thread = {i % j.threads.x, i / j.threads.x % j.threads.y, i / j.threads.x / j.threads.y};
        t.linear = i;
        t.block = &block;
        t.worker = this;
        t.context = nullptr;
    }
    // Now and then a kernel is watched: the shared memory that it writes must be poisoned before each block.
    bool look = locals && (j.kernel->launches & (j.kernel->launches - 1)) == 0;
    running = true;
    for (uint64_t i; !j.error && (i = j.next++) < j.blocks;) {
        if (look) memset(locals, 0xff, locals_bytes);
        begin(i);
        go(*this, &main, pick(0));
        current = nullptr;
        if (look) learn();
        look = false;
    }
    running = false;
    if (j.error) {
        free.clear();
        for (unsigned i = 0; i < most_threads; i++) free.push_back(most_threads - 1 - i);
    }
}

// abandon leaves a block that failed.
[[noreturn]] void abandon(Worker& w, int code) {
    int none = 0;
    w.job->error.compare_exchange_strong(none, code);
    void* nowhere;
    switch_context(&nowhere, w.main);
    __builtin_unreachable();
}

void complain(Worker& w, const char* format, va_list args) {
    const Thread& t = *current;
    int none = 0;
    if (w.job->error != none) return; // one message is enough
    char text[512];
    vsnprintf(text, sizeof text, format, args);
    fprintf(stderr, "simulator: kernel %s, block (%u %u %u) of (%u %u %u), thread (%u %u %u) of (%u %u %u): %s\n", w.job->kernel->name,
            w.block.block.x, w.block.block.y, w.block.block.z, w.block.grid.x, w.block.grid.y, w.block.grid.z, t.thread.x, t.thread.y,
            t.thread.z, w.block.threads.x, w.block.threads.y, w.block.threads.z, text);
}

pthread_key_t worker_key;
struct sigaction before[NSIG];

void on_signal(int number, siginfo_t* info, void* context) {
    Worker* w = static_cast<Worker*>(pthread_getspecific(worker_key));
    if (!w || !w->running || !current) { // not a kernel: the program's own
        struct sigaction& old = before[number];
        if (old.sa_flags & SA_SIGINFO) old.sa_sigaction(number, info, context);
        else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) old.sa_handler(number);
        else sigaction(number, &old, nullptr); // it happens again, without this handler
        return;
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    char* at = static_cast<char*>(info->si_addr);
    if (number == SIGFPE) fail(719, "integer division by zero");
    if (at >= w->stacks && at < w->stacks + most_threads * stack_bytes) fail(719, "its stack is full: local arrays are too large");
    if (at >= w->shared_end && at < w->shared_end + page) fail(700, "access past the end of the dynamic shared memory");
    fail(700, "access to address %p, which is not mapped", static_cast<void*>(at));
}

// Pool is the threads of the system that run blocks.
struct Pool {
    std::mutex mutex;
    std::condition_variable begin, end;
    std::vector<std::thread> threads;
    Job* job = nullptr;
    uint64_t number = 0; // of the job
    unsigned working = 0;

    void serve() {
        Worker* w = new Worker;
        pthread_setspecific(worker_key, w);
        stack_t alternate = {};
        alternate.ss_size = 64 << 10;
        alternate.ss_sp = malloc(alternate.ss_size);
        sigaltstack(&alternate, nullptr);
        std::unique_lock<std::mutex> lock(mutex);
        for (uint64_t seen = 0;;) {
            begin.wait(lock, [&] { return number != seen; });
            seen = number;
            Job* j = job;
            lock.unlock();
            w->run(*j);
            lock.lock();
            if (--working == 0) end.notify_one();
        }
    }

    Pool() {
        pthread_key_create(&worker_key, nullptr);
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigset_t all, old;
        sigfillset(&all);
        for (int number : {SIGSEGV, SIGBUS, SIGFPE}) {
            sigaction(number, &action, &before[number]);
            sigdelset(&all, number);
        }
        for (int number : {SIGILL, SIGABRT, SIGTRAP}) sigdelset(&all, number);
        unsigned n = std::min(std::max(std::thread::hardware_concurrency(), 1u), 4u);
        if (const char* text = getenv("SIMULATOR_THREADS")) n = std::max(atoi(text), 1);
        pthread_sigmask(SIG_BLOCK, &all, &old); // the signals of the program are for its own threads
        for (unsigned i = 0; i < n; i++) threads.emplace_back([this] { serve(); });
        pthread_sigmask(SIG_SETMASK, &old, nullptr);
    }

    void run(Job& j) {
        std::unique_lock<std::mutex> lock(mutex);
        job = &j;
        number++;
        working = threads.size();
        begin.notify_all();
        end.wait(lock, [&] { return working == 0; });
    }
};

Pool& pool() {
    static Pool* p = new Pool; // never ended: its threads live as long as the process
    return *p;
}

Kernel*& head() {
    static Kernel* h;
    return h;
}

// gather brings threads of a warp together. The last to come does for all of them what they met for.
uint64_t gather(Meeting what, unsigned mask, uint64_t value, int from) {
    Strand& t = self();
    Worker& w = *t.worker;
    unsigned warp = t.linear / 32, me = 1u << t.linear % 32;
    unsigned left = w.count - warp * 32;
    unsigned lanes = left >= 32 ? mask : mask & ((1u << left) - 1);
    if (!(lanes & me)) fail(719, "the mask %08x leaves out the thread itself", mask);
    t.meeting = what;
    t.mask = mask;
    t.value = value;
    t.from = from;
    if ((w.met[warp] & lanes) != (lanes & ~me)) {
        w.met[warp] |= me;
        t.state = meeting;
        suspend(t);
        return t.result;
    }
    Strand* all = &w.strands[warp * 32];
    unsigned bits = 0;
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        Strand& o = all[__builtin_ctz(rest)];
        if (o.mask != mask || o.meeting != what) fail(719, "threads of a warp meet with masks %08x and %08x, or for different things", mask, o.mask);
        if (o.value) bits |= rest & -rest;
        if (what == exchanging && (o.from < 0 || o.from > 31 || !(lanes >> o.from & 1))) {
            fail(719, "lane %d reads lane %d, which does not take part", __builtin_ctz(rest), o.from);
        }
    }
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        Strand& o = all[__builtin_ctz(rest)];
        o.result = what == exchanging ? all[o.from].value : bits;
    }
    w.met[warp] &= ~lanes;
    if (lanes != me) w.release(warp, lanes & ~me);
    return t.result;
}

} // namespace

Kernel::Kernel(const char* name, unsigned threads, size_t bytes, void (*run)(const void*))
    : name(name), threads(threads), bytes(bytes), run(run), next(head()) {
    head() = this;
}

Kernel* first() { return head(); }

void barrier() { barrier_sum(0); }

int barrier_sum(int value) {
    Strand& t = self();
    Worker& w = *t.worker;
    w.sum += value;
    if (++w.waiting < w.count) {
        t.state = at_barrier;
        suspend(t);
        return w.total;
    }
    w.total = w.sum;
    w.sum = 0;
    w.waiting = 0;
    for (unsigned i = 0; i < w.warps; i++) {
        unsigned left = w.count - i * 32, lanes = left >= 32 ? ~0u : (1u << left) - 1;
        if (i == t.linear / 32) lanes &= ~(1u << t.linear % 32);
        if (lanes) w.release(i, lanes);
    }
    return w.total;
}

void meet(unsigned mask) { gather(wait, mask, 0, 0); }

uint64_t exchange(unsigned mask, uint64_t v, int from) { return gather(exchanging, mask, v, from); }

unsigned vote(unsigned mask, bool v) { return (unsigned)gather(voting, mask, v, 0); }

void fail(int code, const char* format, ...) {
    Worker& w = *self().worker;
    va_list args;
    va_start(args, format);
    complain(w, format, args);
    va_end(args);
    abandon(w, code);
}

void start() { pool(); }

int launch(Kernel& kernel, dim3 grid, dim3 threads, size_t shared, const void* params) {
    Job job;
    job.kernel = &kernel;
    job.grid = grid;
    job.threads = threads;
    job.shared = shared;
    job.params = params;
    job.blocks = (uint64_t)grid.x * grid.y * grid.z;
    kernel.launches++;
    pool().run(job);
    return job.error;
}

} // namespace simulator

// The compiler's checks of alignment and of the bounds of arrays call these.
namespace {
struct Location {
    const char* file;
    uint32_t line, column;
};
} // namespace

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(const Location* where, const void* at) {
    simulator::fail(716, "%s:%u: misaligned address %p", where->file, where->line, at);
}

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds(const Location* where, uintptr_t index) {
    simulator::fail(719, "%s:%u: index %td is out of the array's bounds", where->file, where->line, static_cast<ptrdiff_t>(index));
}
