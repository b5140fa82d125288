// What all tiers are made of: reading a segment unit by unit, its sums in a fixed order, the coefficients
// that follow from them, and V. table.h says what units, chunks and groups are.
//
//   units.cuh      finds a unit's elements in the pieces of its segment and reads them, 8 loads of 16 bytes
//                  in flight for each lane; where a pointer is not a multiple of 16, and at the end of a
//                  tensor, the same lane reads the same elements one by one
//   unit_sums.cuh  a lane's sums, then those of the unit
//   merges.cuh     sums of units to those of chunks and of the segment
//   solve.cuh      sums to the share of D and the coefficients of V
//   gradient.cuh   V
#pragma once

#include "gradient.cuh"
#include "merges.cuh"
#include "solve.cuh"
