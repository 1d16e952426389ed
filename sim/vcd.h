// SPDX-License-Identifier: Apache-2.0
// Windows of a Verilated model's life as a VCD file, in which a time step is a clock cycle: enough to count toggles in.
//
// Where the model was compiled without, a file cannot be opened and the rest does nothing. The object must go before the
// model that it shows, and the model's context must have traceEverOn(true) before it is made.

#pragma once

#include <cstdint>
#include <string>

#if VM_TRACE
#include <memory>

#include "verilated_vcd_c.h"
#endif

template <typename Model> class Windows {
public:
#if VM_TRACE
    // From now on a window of 32 cycles in every ``period`` is written. Whether the file is open.
    bool open(Model& model, const std::string& path, uint64_t period) {
        close();
        period_ = period;
        file_ = std::make_unique<VerilatedVcdC>();
        model.trace(file_.get(), 99);
        file_->open(path.c_str());
        if (!file_->isOpen()) file_.reset();
        return bool(file_);
    }

    void close() {
        if (file_) file_->close();
        file_.reset();
    }

    // The state after the clock's edge of a cycle.
    void cycle(uint64_t now) {
        if (file_ && now % period_ < kStates) file_->dump(now);
    }

private:
    static constexpr uint64_t kStates = 33;  // 32 cycles lie between them
    uint64_t period_ = 1;
    std::unique_ptr<VerilatedVcdC> file_;
#else
    bool open(Model&, const std::string&, uint64_t) { return false; }
    void close() {}
    void cycle(uint64_t) {}
#endif
};
