// SPDX-License-Identifier: Apache-2.0
// The simulated board: runs the Verilated chip's clock while there is work and joins its byte streams to a
// pseudo-terminal, so that a host opens it like a serial port.
//
// stdout: {"pty": "/dev/pts/N"} once ready, then one JSON line for each command.
// stdin:  "stats"; "reset" (the board's reset button); "trace PATH", "trace" (VCD begins, ends); "quit". End of file means
//         quit: the board never outlives its parent. A last line with statistics is printed at the end. Of a board with
//         external memory also what can go wrong with it: "flip ADDRESS" (the lowest bit of a byte), "spoil ADDRESS" (its
//         word cannot be read or written), "silence" (it answers nothing), "mend" (it does again, and all can be read).
// argv:   wall-clock limit in seconds; with external memory also a file that is in it from the start.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "Vboard.h"
#include "config.h"
#include "vcd.h"
#include "verilated.h"
#ifdef MEMORY_BYTES
#include "external.h"
#endif

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSlice = 256;                // cycles between looks at the pseudo-terminal
constexpr uint64_t kTracePeriod = 512;     // cycles from one traced window to the next
constexpr size_t kHighWater = 1 << 16;     // bytes that the host may leave unread before the chip has to wait
constexpr int kLatency = 20;               // cycles from a command to a memory without controller to its first word

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

[[noreturn]] void die(const char* what) {
    std::perror(what);
    std::exit(1);
}

int open_pty(std::string& path) {
    const int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0) die("pseudo-terminal");
    path = ptsname(master);
    // Held open, or reads of the master would fail whenever no host has the other side open.
    const int slave = open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC);
    termios settings{};
    if (slave < 0 || tcgetattr(slave, &settings) < 0) die(path.c_str());
    cfmakeraw(&settings);
    if (tcsetattr(slave, TCSANOW, &settings) < 0) die(path.c_str());
    return master;
}

class Board {
public:
    Board(VerilatedContext& context, double limit, const char* memory)
        : top_{&context}, limit_{limit}, pty_{open_pty(path_)} {
        preset(memory);
        reset();
        std::printf("{\"pty\": \"%s\"}\n", path_.c_str());
        std::fflush(stdout);
    }

    ~Board() { top_.final(); }

    int run() {
        const auto begin = Clock::now();
        while (running_) {
            const double left = limit_ - seconds(Clock::now() - begin);
            if (left <= 0) {
                std::fprintf(stderr, "simulated board: time limit of %g s reached\n", limit_);
                print_statistics();
                return 3;
            }
            const bool idle = quiet_ >= kSlice && taken_ == in_.size();
            exchange(idle ? std::min(1000, int(left * 1000) + 1) : 0);
            if (!idle || taken_ < in_.size()) slice();
        }
        print_statistics();
        return 0;
    }

private:
    void reset() {
        top_.rst = 1;
        top_.rx_valid = 0;
        top_.tx_ready = 0;
        for (int k = 0; k < 8; ++k) tick();
        top_.rst = 0;
#ifdef MEMORY_BYTES
        memory_.forget();
#endif
        tick();  // from the flip-flop in board.v
        in_.clear();
        taken_ = 0;
        out_.clear();
        quiet_ = 0;
    }

    // As a board whose memory was loaded before.
    void preset(const char* file) {
        if (!file) return;
#ifdef MEMORY_BYTES
        memory_.load(file);
#else
        std::fprintf(stderr, "simulated board: %s: it has no external memory\n", file);
        std::exit(1);
#endif
    }

    void tick() {
        remember();
        top_.clk = 0;
        top_.eval();
        top_.clk = 1;
        top_.eval();
        ++cycles_;
        write_trace();
    }

    void remember() {
#ifdef MEMORY_BYTES
        memory_.cycle(top_, cycles_);
#endif
    }

    // Clock cycles until the next look outside.
    void slice() {
        const auto begin = Clock::now();
        for (int k = 0; k < kSlice; ++k) {
            const bool offering = taken_ < in_.size();
            const bool willing = out_.size() < kHighWater;
            top_.rx_valid = offering;
            if (offering) top_.rx_payload = uint8_t(in_[taken_]);
            top_.tx_ready = willing;
            remember();
            top_.clk = 0;
            top_.eval();
            const bool took = offering && top_.rx_ready;
            const bool gave = willing && top_.tx_valid;
            if (gave) out_.push_back(char(top_.tx_payload));
            taken_ += took;
            quiet_ = took || gave || top_.busy ? 0 : quiet_ + 1;
            top_.clk = 1;
            top_.eval();
            ++cycles_;
            write_trace();
        }
        busy_ += Clock::now() - begin;
    }

    void write_trace() {
        if (top_.busy) trace_.cycle(cycles_);
    }

    bool open_trace(const std::string& path) {
        if (!path.empty()) return trace_.open(top_, path, kTracePeriod);
        trace_.close();
        return true;
    }

    // Bytes and commands from and to outside; waits for them at most ``wait`` milliseconds.
    void exchange(int wait) {
        if (taken_ == in_.size()) {
            in_.clear();
            taken_ = 0;
        }
        if (!out_.empty()) {
            const ssize_t count = write(pty_, out_.data(), out_.size());
            if (count > 0) out_.erase(0, size_t(count));
            else if (errno != EAGAIN && errno != EINTR) die("pseudo-terminal write");
        }
        pollfd files[2] = {{0, POLLIN, 0}, {pty_, short(POLLIN | (out_.empty() ? 0 : POLLOUT)), 0}};
        if (poll(files, 2, wait) < 0) {
            if (errno == EINTR) return;
            die("poll");
        }
        if (files[1].revents & POLLIN && in_.empty()) {
            char bytes[4096];
            const ssize_t count = read(pty_, bytes, sizeof bytes);
            if (count > 0) in_.assign(bytes, size_t(count));
            else if (errno != EAGAIN && errno != EINTR) die("pseudo-terminal read");
        }
        if (files[0].revents & (POLLIN | POLLHUP | POLLERR)) command();
    }

    void command() {
        char bytes[4096];
        const ssize_t count = read(0, bytes, sizeof bytes);
        if (count <= 0) {
            running_ = false;
            return;
        }
        for (ssize_t k = 0; k < count; ++k) {
            if (bytes[k] != '\n') {
                line_.push_back(bytes[k]);
                continue;
            }
            if (line_ == "stats") print_statistics();
            else if (line_ == "reset") { reset(); print_statistics(); }
            else if (line_ == "trace" || line_.rfind("trace ", 0) == 0) {
                const bool done = open_trace(line_.size() > 6 ? line_.substr(6) : "");
                std::printf("{\"trace\": %s}\n", done ? "true" : "false");
                std::fflush(stdout);
            }
            else if (line_ == "quit") running_ = false;
            else if (fault()) print_statistics();
            else std::fprintf(stderr, "simulated board: no command \"%s\"\n", line_.c_str());
            line_.clear();
        }
    }

    // Whether the line was a fault of the memory, which is there now.
    bool fault() {
#if defined(MEMORY_BYTES)
        const size_t space = line_.find(' ');
        const uint64_t address = space == line_.npos ? 0 : std::strtoull(line_.c_str() + space, nullptr, 0);
        const std::string what = line_.substr(0, space);
        if (what == "flip" && memory_.at(address)) {
            *memory_.at(address) ^= 1;
            return true;
        }
#ifndef DRAM
        if (what == "spoil") memory_.spoil(address);
        else if (what == "silence") memory_.silence();
        else if (what == "mend") memory_.mend();
        else return false;
        return true;
#endif
#endif
        return false;
    }

    void print_statistics() {
        std::printf("{\"cycles\": %llu, \"seconds\": %.6f}\n", static_cast<unsigned long long>(cycles_), seconds(busy_));
        std::fflush(stdout);
    }

    Vboard top_;
#ifdef MEMORY_BYTES
    ExternalMemory<Vboard> memory_{WORD, MEMORY_BYTES, kLatency};
#endif
    Windows<Vboard> trace_;  // goes before the model that it shows
    const double limit_;
    std::string path_;
    const int pty_;
    std::string in_, out_, line_;  // from the host, to the host, from the parent
    size_t taken_ = 0;             // of in_
    int quiet_ = 0;                // cycles without anything happening
    bool running_ = true;
    uint64_t cycles_ = 0;
    Clock::duration busy_{};
};

}  // namespace

int main(int argc, char** argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN);  // the parent's to handle
    VerilatedContext context;
#if VM_TRACE
    context.traceEverOn(true);
#endif
    Board board{context, argc > 1 ? std::atof(argv[1]) : 3600.0, argc > 2 ? argv[2] : nullptr};
    return board.run();
}
