// __syncwarp, shuffles and votes: lanes meet by their masks, and each of them gets its result.
#include "fibers.h"

namespace sapag::emulation {

using namespace internal;

const char* internal::name_of(WarpOperation operation) {
  constexpr const char* names[] = {"__syncwarp",       "__shfl_sync",    "__shfl_xor_sync",
                                   "__shfl_down_sync", "__shfl_up_sync", "__ballot_sync"};
  return names[static_cast<int>(operation)];
}

namespace {

// The lane whose value this one receives; itself where the operation leads out of its segment.
int source_lane(WarpOperation operation, int lane, int argument, int width) {
  const int first = lane / width * width, last = first + width - 1;
  switch (operation) {
    case WarpOperation::shuffle:
      return first + (argument & (width - 1));
    case WarpOperation::shuffle_xor:
      return (lane ^ argument) <= last ? lane ^ argument : lane;
    case WarpOperation::shuffle_down:
      return lane + argument <= last ? lane + argument : lane;
    case WarpOperation::shuffle_up:
      return lane - argument >= first ? lane - argument : lane;
    default:
      return lane;
  }
}

// All have come: every lane gets its result.
void conclude(Warp* warp, const Meeting& meeting, Fiber* self) {
  uint64_t given[kWarp] = {};
  uint64_t ballot = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(meeting.mask >> lane & 1)) continue;
    given[lane] = warp->lanes[lane]->bits;
    ballot |= (given[lane] & 1) << lane;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(meeting.mask >> lane & 1)) continue;
    Fiber* f = warp->lanes[lane];
    const int source = source_lane(meeting.operation, lane, f->argument, meeting.width);
    if (!(meeting.mask >> source & 1)) {
      stop(std::string("shuffle: ") + who(f) + " reads lane " + std::to_string(source) +
           ", which is not in the mask " + hexadecimal(meeting.mask) + " of " + name_of(meeting.operation) +
           " " + describe(meeting.site));
    }
    f->bits = meeting.operation == WarpOperation::ballot ? ballot : given[source];
    if (f != self) make_ready(f);
  }
}

}  // namespace

uint64_t exchange(WarpOperation operation, unsigned mask, uint64_t bits, int argument, int width,
                  const Site& site) {
  Fiber* self = current;
  Warp* warp = self->warp;
  const unsigned lane = self->thread.x % kWarp, bit = 1u << lane;
  const auto fault = [&](const std::string& what) {
    stop("shuffle: " + who(self) + " (lane " + std::to_string(lane) + ") " + what + " at " +
         name_of(operation) + " " + describe(site));
  };
  self->site = site;
  self->operation = name_of(operation);
  self->bits = bits;
  self->argument = argument;
  if (!(mask & bit)) fault("is not in its own mask " + hexadecimal(mask));
  if (width < 1 || width > kWarp || (width & (width - 1)) != 0) {
    fault("has a width of " + std::to_string(width));
  }
  Meeting* meeting = nullptr;
  for (int i = 0; i < warp->open_count; ++i) {
    Meeting& open = warp->open[i];
    if (!(open.mask & bit)) continue;
    // Others already wait for this lane: it has to join them.
    if (open.mask != mask) {
      fault("comes with mask " + hexadecimal(mask) + ", others wait for it with mask " +
            hexadecimal(open.mask) + " at " + describe(open.site));
    }
    if (open.operation != operation || open.width != width || !same(open.site, site)) {
      fault(std::string("comes while others wait for it at ") + name_of(open.operation) + " " +
            describe(open.site));
    }
    meeting = &open;
  }
  if (!meeting) {
    for (int other = 0; other < kWarp; ++other) {
      if (!(mask >> other & 1)) continue;
      const Fiber* f = warp->lanes[other];
      if (!f || f->state == State::done) {
        fault("names lane " + std::to_string(other) + " in its mask " + hexadecimal(mask) + ", which " +
              (f ? "has ended" : "does not exist"));
      }
    }
    meeting = &warp->open[warp->open_count++];
    *meeting = Meeting{mask, 0, operation, width, site, &warp->marks[warp->turn++ % kMarks]};
  }
  Mark* mark = meeting->mark;
  const bool orders = operation == WarpOperation::sync;
  if (orders) release(mark);
  meeting->arrived |= bit;
  if (meeting->arrived != meeting->mask) {
    self->state = State::waiting;
    give_way();
  } else {
    const Meeting all = *meeting;
    *meeting = warp->open[--warp->open_count];
    progress();
    conclude(warp, all, self);
    if (all.mask != bit) {
      make_ready(self);
      give_way();
    }
  }
  if (orders) acquire_mark(mark);
  return self->bits;
}

}  // namespace sapag::emulation
