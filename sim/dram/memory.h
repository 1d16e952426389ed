// SPDX-License-Identifier: Apache-2.0
// Contents of the simulated memory, which the model of nomul.hw.dram asks for and changes word by word.
//
// One object for the process, made before the model's first evaluation. A file is mapped, not read: loading takes no
// time, and writes never reach it. Include this in one source file.

#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "svdpi.h"

class DramMemory {
public:
    // Zeros. ``bytes``: a power of two, the part's size; ``word_bytes``: width of the controller's port.
    DramMemory(size_t bytes, size_t word_bytes) : bytes_{bytes}, word_bytes_{word_bytes} {
        base_ = static_cast<uint8_t*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (base_ == MAP_FAILED) die("memory");
        self() = this;
    }
    DramMemory(const DramMemory&) = delete;
    DramMemory& operator=(const DramMemory&) = delete;
    ~DramMemory() { munmap(base_, bytes_); }

    // The file from address 0 on; beyond its end are zeros up to the end of a page, then what was there.
    void load(const char* path) {
        const int file = open(path, O_RDONLY | O_CLOEXEC);
        struct stat about {};
        if (file < 0 || fstat(file, &about) < 0) die(path);
        if (size_t(about.st_size) > bytes_) {
            std::fprintf(stderr, "%s: %lld bytes; the memory has %zu\n", path, (long long)about.st_size, bytes_);
            std::exit(1);
        }
        if (about.st_size
            && mmap(base_, size_t(about.st_size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0)
                   == MAP_FAILED)
            die(path);
        close(file);
    }

    uint8_t* word(uint32_t address) { return base_ + (address * word_bytes_ & (bytes_ - 1)); }
    size_t word_bytes() const { return word_bytes_; }
    static DramMemory*& self() {
        static DramMemory* one = nullptr;
        return one;
    }

    uint64_t activations = 0;  // rows opened so far

private:
    [[noreturn]] static void die(const char* what) {
        std::perror(what);
        std::exit(1);
    }

    const size_t bytes_, word_bytes_;
    uint8_t* base_;
};

extern "C" void nomul_dram_activate() { ++DramMemory::self()->activations; }

extern "C" void nomul_dram_read(unsigned address, svBitVecVal* data) {
    DramMemory& memory = *DramMemory::self();
    std::memcpy(data, memory.word(address), memory.word_bytes());
}

extern "C" void nomul_dram_write(unsigned address, const svBitVecVal* data, const svBitVecVal* mask) {
    DramMemory& memory = *DramMemory::self();
    const auto* bytes = reinterpret_cast<const uint8_t*>(data);
    uint8_t* word = memory.word(address);
    for (size_t k = 0; k < memory.word_bytes(); ++k)
        if (!(*mask >> k & 1)) word[k] = bytes[k];
}
