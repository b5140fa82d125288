// __syncthreads and cluster_sync. Threads of one CTA must meet at the same place in the source.
#include "fibers.h"

namespace sapag::emulation {

using namespace internal;

namespace {

void wait_in(Meet* meet, Fiber* self) {
  Mark* mark = &meet->marks[meet->turn % 2];
  release(mark);
  if (++meet->arrived < meet->expected) {
    self->state = State::waiting;
    self->next = nullptr;
    (meet->waiting ? meet->last->next : meet->waiting) = self;
    meet->last = self;
    give_way();
  } else {
    Fiber* first = meet->waiting;
    meet->waiting = nullptr;
    meet->arrived = 0;
    ++meet->turn;
    progress();
    while (first) {
      Fiber* f = first;
      first = f->next;
      make_ready(f);
    }
    // The last to come has no claim to go on first.
    make_ready(self);
    give_way();
  }
  acquire_mark(mark);
}

void diverged(const char* barrier, const Fiber* self, const Site& site, const Site& others) {
  stop(std::string("divergence: ") + who(self) + " is at " + barrier + " " + describe(site) +
       ", other threads of its CTA at " + describe(others));
}

}  // namespace

void internal::reject_ended(const char* barrier, const Cta* cta, const Site& site) {
  if (cta->ended) {
    stop("divergence: " + std::to_string(cta->ended) + " threads of CTA " + std::to_string(cta->index) +
         " ended without reaching " + barrier + " " + describe(site));
  }
}

void wait_at(Barrier barrier, const Site& site) {
  Fiber* self = current;
  Cta* cta = self->cta;
  self->site = site;
  if (barrier == Barrier::block) {
    self->operation = "__syncthreads";
    reject_ended(self->operation, cta, site);
    if (cta->barrier.arrived == 0) cta->barrier_site = site;
    if (!same(site, cta->barrier_site)) diverged(self->operation, self, site, cta->barrier_site);
    wait_in(&cta->barrier, self);
    return;
  }
  // CTAs of one cluster may meet from different places in the source, threads of one CTA may not.
  self->operation = "cluster_sync";
  for (const Cta* other : cta->cluster->ctas) reject_ended(self->operation, other, site);
  if (cta->at_cluster_barrier == 0) cta->cluster_site = site;
  if (!same(site, cta->cluster_site)) diverged(self->operation, self, site, cta->cluster_site);
  cta->cluster->site = site;
  if (++cta->at_cluster_barrier == now->shape.block) cta->at_cluster_barrier = 0;
  wait_in(&cta->cluster->barrier, self);
}

}  // namespace sapag::emulation
