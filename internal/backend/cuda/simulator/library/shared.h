// The part of the simulated devices that processes share: how much memory there is, and how much of it each process has. It lies in the file that
// SIMULATOR_DEVICE names, or, without it, in memory of the process, which then has the devices for itself.
#pragma once

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <atomic>

namespace simulator {

const int most_devices = 4, most_processes = 128, out_of_slots = -1;
const size_t context_default = 0, capacity_default = (size_t)8 << 30;

// Share is the memory that a process has of a device.
struct Share {
    size_t memory, context;
    int retained; // it has a context, whatever that takes
    size_t all() const { return memory + context; }
};

// Process is one that uses the devices, or that tests have made up. What is of one that has ended does not count.
struct Process {
    enum Kind { none, real, invented, unlisted, competitor };
    int kind;
    pid_t pid;      // 0 for an invisible program
    uint64_t start; // when that process began: another one may have the pid later
    char name[64];  // of one that is made up
    Share shares[most_devices];
};

// Competitor is a made-up program that takes and gives memory of the first device at random, in steps that driver calls count.
struct Competitor {
    std::atomic<uint64_t> pace; // calls between two moves; 0: there is none
    uint64_t seed, from, low, high, took, gave;
};

// Devices are all that is shared. Settings are read without the lock.
struct Devices {
    uint64_t version; // of this layout; set last
    pthread_mutex_t mutex;
    std::atomic<int> count, major, minor, multiprocessors, cuda, slices;
    std::atomic<size_t> capacity, reserved, context;
    std::atomic<uint64_t> calls, refusals, launches[most_devices];
    Competitor competitor;
    int used; // places of the table that were ever used
    Process processes[most_processes];

    // settle sets what tests can set to what it is at first, and ends all that they have made up.
    void settle();

    // The rest is called with the lock.
    size_t taken(int device, const Process* except = nullptr) const;
    size_t free(int device) const;
    void bury(); // forgets processes that have ended
    Process* place(int kind, pid_t pid, uint64_t start); // finds or makes one; nullptr if the table is full
    void move(uint64_t turn);                            // of the competitor
};

// Locked holds the lock. If a process dies that has it, the next one goes on: each number is right by itself.
class Locked {
public:
    Locked();
    ~Locked();
    Devices* operator->() { return devices; }

private:
    Devices* devices;
};

// devices are those that this process sees.
Devices& devices();

// join makes the file's devices those of this process; an empty path is its own ones. It gives 0 or an error of the system.
int join(const char* path);

// joined says whether the devices are in a file.
bool joined();

// mine is this process in the table, which is there from the first call on.
Process* mine(Locked& d);

// take changes what this process has of a device by some memory, of which context says what it is for, if there is room.
bool take(int device, size_t bytes, bool context = false);
void give(int device, size_t bytes, bool context = false);
// resize changes what its context takes.
bool resize(int device, size_t before, size_t after);

// tick counts a call of the driver.
void tick();

// born is when a process began, in the system's ticks; 0 if there is no such process, or it has ended.
uint64_t born(pid_t pid);

// uuid is a device's as NVIDIA writes it, part says whether it is the one of a slice.
void uuid(unsigned char* to, int device, bool part);

} // namespace simulator
