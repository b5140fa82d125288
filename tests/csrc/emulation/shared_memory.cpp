// Shared memory: a block of exactly its size for each array of each CTA, filled with 0xff bytes.
#include <cstdlib>

#include "fibers.h"

namespace sapag::emulation {

using namespace internal;

namespace {

const char kDynamicKey = 0;

// Not memset: ThreadSanitizer knows that one.
void fill(char* data, std::size_t bytes) {
  const std::size_t words = bytes / sizeof(uint64_t);
  for (std::size_t i = 0; i < words; ++i) {
    reinterpret_cast<uint64_t*>(data)[i] = ~uint64_t{0};
    asm volatile("" ::: "memory");
  }
  for (std::size_t i = words * sizeof(uint64_t); i < bytes; ++i) {
    data[i] = static_cast<char>(0xff);
    asm volatile("" ::: "memory");
  }
}

char* new_block(std::size_t bytes) {
  char* data = with_tsan() ? new_arena_block(bytes) : static_cast<char*>(std::malloc(bytes));
  fill(data, bytes);
  return data;
}

Block* find_block(Cta* cta, const void* key) {
  for (Block& block : cta->blocks) {
    if (block.key == key) return &block;
  }
  return nullptr;
}

char* block_of(Cta* cta, const void* key, std::size_t bytes) {
  if (Block* block = find_block(cta, key)) return block->data;
  if (cta->blocks.size() == kStaticArrays) stop("more than 64 shared arrays in one CTA");
  if (key != &kDynamicKey) {
    cta->static_bytes += (bytes + 15) / 16 * 16;
    const auto dynamic = static_cast<std::size_t>(now->shape.dynamic_shared_bytes);
    if (cta->static_bytes > static_cast<std::size_t>(options.static_shared_bytes) ||
        cta->static_bytes + dynamic > static_cast<std::size_t>(options.shared_bytes)) {
      stop("shared memory: " + std::to_string(cta->static_bytes) + " bytes in arrays and " +
           std::to_string(dynamic) + " dynamic ones are more than the device has");
    }
  }
  cta->blocks.push_back({key, new_block(bytes), bytes});
  return cta->blocks.back().data;
}

}  // namespace

void internal::free_blocks(Cta* cta) {
  for (const Block& block : cta->blocks) {
    if (with_tsan()) continue;
    fill(block.data, block.bytes);  // who still reads it shall see it
    std::free(block.data);
  }
  cta->blocks.clear();
}

void* shared_block(const void* key, std::size_t bytes) {
  return block_of(current->cta, key, bytes);
}

void* dynamic_shared_block() {
  return block_of(current->cta, &kDynamicKey, static_cast<std::size_t>(now->shape.dynamic_shared_bytes));
}

int cluster_rank() {
  return current->cta->rank;
}
int cluster_size() {
  return now->shape.cluster;
}

void* map_shared(void* pointer, int rank, const Site& site) {
  Cta* cta = current->cta;
  if (rank < 0 || rank >= now->shape.cluster) {
    stop("cluster_map: " + who(current) + " asks for rank " + std::to_string(rank) + " of " +
         std::to_string(now->shape.cluster) + ", " + describe(site));
  }
  Cta* other = cta->cluster->ctas[static_cast<std::size_t>(rank)];
  if (other->live == 0) {
    stop("cluster_map: " + who(current) + " maps memory of CTA " + std::to_string(other->index) +
         ", which has ended, " + describe(site));
  }
  if (other != cta && cta->cluster->barrier.turn == 0) {
    stop("cluster_map: " + who(current) + " maps memory of CTA " + std::to_string(other->index) +
         " before any cluster_sync: it may not have started, " + describe(site));
  }
  const auto* byte = static_cast<const char*>(pointer);
  for (const Block& block : cta->blocks) {
    if (byte >= block.data && byte < block.data + block.bytes) {
      return block_of(other, block.key, block.bytes) + (byte - block.data);
    }
  }
  stop("cluster_map: " + who(current) + " maps what is not shared memory of its CTA, " + describe(site));
}

}  // namespace sapag::emulation
