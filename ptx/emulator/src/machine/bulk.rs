//! Bulk copies, with and without tensor maps.

use super::addresses::Location;
use super::copies::{BulkEnd, Effect, Pending, Transfer};
use super::cta::Actor;
use super::warp::lanes;
use super::{Place, Unit};
use crate::diagnostic::Check;
use crate::order::{Kind, Scope};
use crate::program::{Bulk, Direction, Source, Space};
use crate::tensor_map::{ElementType, TensorMap};
use ptx_syntax::ast::Type;

/// Bytes of a tensor map, which are also read as one.
const MAP_BYTES: u32 = 128;

/// Alignment of a tensor map (PTX ISA, "Tensor-map").
const MAP_ALIGN: u64 = 64;

/// Addresses and sizes of bulk copies are multiples of this.
const BULK_ALIGN: u64 = 16;

impl Unit<'_> {
    /// `cp.async.bulk` in all its forms.
    pub(super) fn bulk(&mut self, place: Place, mask: u32, bulk: &Bulk) {
        let shared = self.addresses(place, bulk.shared);
        let other = self.addresses(place, bulk.other);
        let barriers = bulk.barrier.map(|barrier| self.addresses(place, barrier));
        for lane in lanes(mask) {
            let barrier = barriers.as_ref().map(|barriers| barriers[lane]);
            if let Err((check, message)) =
                self.bulk_of_lane(place, lane, bulk, shared[lane], other[lane], barrier)
            {
                self.report(place, Some(lane), check, message);
            }
        }
    }

    fn bulk_of_lane(
        &mut self,
        place: Place,
        lane: usize,
        bulk: &Bulk,
        shared: u64,
        other: u64,
        barrier: Option<u64>,
    ) -> Result<(), (Check, String)> {
        let out_of_bounds = |message| (Check::OutOfBounds, message);
        let near =
            if bulk.direction == Direction::SharedToGlobal { Space::SharedCta } else { Space::SharedCluster };
        let shared = self.locate(place.cta, near, shared).map_err(out_of_bounds)?;
        let Location::Shared { cta: near_cta, address: near_address } = shared else { return Ok(()) };

        // Pieces of the copy: offset in shared memory, place at the other end, bytes.
        let (pieces, total, fill, element) = match &bulk.coordinates {
            Some(coordinates) => {
                let coordinates: Vec<i32> = coordinates
                    .iter()
                    .map(|source: &Source| self.read(place, *source)[lane] as i32)
                    .collect();
                let map = self.tensor_map(place, lane, other)?;
                let stores = bulk.direction == Direction::SharedToGlobal;
                check_box(&map, &coordinates, stores).map_err(|message| (Check::BulkCopy, message))?;
                let pieces =
                    map.pieces(&coordinates, near_address).map_err(|e| (Check::BulkCopy, e.to_string()))?;
                let pieces: Vec<_> = pieces
                    .into_iter()
                    .map(|piece| (piece.offset, piece.source.map(Location::Global), piece.bytes))
                    .collect();
                (pieces, map.box_bytes(), map.fill(), Some(element_type(map.element)))
            }
            None => {
                let bytes = bulk.bytes.map_or(0, |bytes| self.read(place, bytes)[lane] as u32);
                if !u64::from(bytes).is_multiple_of(BULK_ALIGN) {
                    let message = format!("a copy of {bytes} bytes; needed is a multiple of {BULK_ALIGN}");
                    return Err((Check::BulkCopy, message));
                }
                let space = match bulk.direction {
                    Direction::SharedToShared => Space::SharedCta,
                    Direction::GlobalToShared | Direction::SharedToGlobal => Space::Global,
                };
                if bulk.direction == Direction::SharedToShared && near_cta == place.cta {
                    let message =
                        "the destination is in the CTA that copies; needed is another one of its cluster";
                    return Err((Check::BulkCopy, message.to_owned()));
                }
                let other = self.locate(place.cta, space, other).map_err(out_of_bounds)?;
                (vec![(near_address, Some(other), bytes)], bytes, [0; 16], None)
            }
        };
        let is_tensor = bulk.coordinates.is_some();
        let align = if is_tensor { 1 } else { BULK_ALIGN };

        // To whom: one CTA or several, each with a barrier at the same offset.
        let targets = match barrier {
            Some(barrier) => {
                let Some((barrier_cta, barrier_address)) = self.mbarrier_location(place, lane, barrier)
                else {
                    return Ok(());
                };
                let targets: Vec<usize> = match bulk.multicast {
                    None => vec![near_cta],
                    Some(ranks) => {
                        let ranks = self.read(place, ranks)[lane] as u32;
                        let first = self.cluster_of(place.cta);
                        let size = self.context.cluster.iter().product::<u32>();
                        if ranks == 0 || ranks >> size != 0 {
                            let message = format!("the CTAs {ranks:#b} of a cluster of {size}");
                            return Err((Check::BulkCopy, message));
                        }
                        lanes(ranks).map(|rank| first + rank).collect()
                    }
                };
                if bulk.multicast.is_none() && barrier_cta != near_cta {
                    let message = "the mbarrier is not in the CTA that gets the data".to_owned();
                    return Err((Check::BulkCopy, message));
                }
                let mut ends = Vec::new();
                for target in targets {
                    if !self.check_visible_mbarrier(place, lane, target, barrier_address) {
                        return Ok(());
                    }
                    if let Some(message) = self.ask_for_bytes(target, barrier_address, total) {
                        self.report(place, Some(lane), Check::Mbarrier, message);
                    }
                    let phase = self.mbarrier_phase(target, barrier_address).unwrap_or(0);
                    let address = barrier_address;
                    ends.push((target, BulkEnd::Barrier { cta: target, address, bytes: total, phase }));
                }
                ends
            }
            None => {
                let group = self.ctas[place.cta].warps[place.warp].bulk_groups[lane] + 1;
                vec![(near_cta, BulkEnd::Group(group))]
            }
        };

        let threads = self.ctas[place.cta].threads;
        let thread = self.thread(place, lane);
        let reduction = bulk.reduction.and_then(|(operation, ty)| Some((operation, ty.or(element)?)));
        let in_range: u64 =
            pieces.iter().filter(|piece| piece.1.is_some()).map(|piece| u64::from(piece.2)).sum();
        let sectors: u64 = in_range.div_ceil(32);
        self.count(place, |counts| {
            counts.shared_bytes += u64::from(total) * targets.len() as u64;
            if bulk.direction != Direction::SharedToShared {
                counts.global_bytes += in_range;
                counts.sectors += sectors;
            }
        });
        // What goes to several CTAs arrives at each of them in its own time.
        for (target, end) in targets {
            // Reads and writes are over when the target's barrier says so, or the thread's group.
            let (read_epoch, write_epoch) = match &end {
                BulkEnd::Barrier { cta, address, .. } => {
                    let epoch = self.completion_epoch(*cta, *address);
                    (epoch, epoch)
                }
                BulkEnd::Group(group) => (
                    Actor::BulkReads(thread).at(place.cta, threads, *group),
                    Actor::BulkWrites(thread).at(place.cta, threads, *group),
                ),
            };
            let mut transfers = Vec::new();
            for (offset, far, bytes) in &pieces {
                let near = Location::Shared { cta: target, address: *offset };
                let (from, to) = match bulk.direction {
                    Direction::GlobalToShared | Direction::SharedToShared => (*far, Some(near)),
                    Direction::SharedToGlobal => (Some(near), *far),
                };
                // What lies outside the tensor is not stored.
                let Some(to) = to else { continue };
                let reads = from.is_none_or(|from| {
                    self.check_copy(place, lane, from, *bytes, align, read_epoch, Kind::ASYNC_READ)
                });
                // A reduction is relaxed, of the scope of the GPU.
                let strong = bulk.reduction.is_some().then_some(Scope::Device);
                let kind = Kind { strong, ..Kind::ASYNC_WRITE };
                if reads && self.check_copy(place, lane, to, *bytes, align, write_epoch, kind) {
                    transfers.push(Transfer { from, to, bytes: *bytes, read: *bytes, data: Vec::new() });
                }
            }
            self.push(place, lane, Effect::Bulk { transfers, fill, reduction, end });
        }
        Ok(())
    }

    /// The tensor map at a generic address.
    fn tensor_map(&mut self, place: Place, lane: usize, address: u64) -> Result<TensorMap, (Check, String)> {
        let location = self
            .locate(place.cta, Space::Generic, address)
            .map_err(|message| (Check::OutOfBounds, message))?;
        if !location.address().is_multiple_of(MAP_ALIGN) {
            let message = format!("the tensor map is at {address:#x}; needed is a multiple of {MAP_ALIGN}");
            return Err((Check::Misaligned, message));
        }
        if matches!(location, Location::Shared { .. }) || !self.exists(location, MAP_BYTES) {
            let message = format!("there is no tensor map at {address:#x}");
            return Err((Check::OutOfBounds, message));
        }
        let mut bytes = [0; MAP_BYTES as usize];
        self.fetch((place.cta, self.thread(place, lane)), location, &mut bytes);
        TensorMap::decode(&bytes).map_err(|error| (Check::BulkCopy, error.to_string()))
    }

    pub(super) fn commit_bulk(&mut self, place: Place, mask: u32) {
        let groups = &mut self.warp(place).bulk_groups;
        lanes(mask).for_each(|lane| groups[lane] += 1);
    }

    pub(super) fn wait_for_bulk(&mut self, place: Place, mask: u32, pending: u32, read_only: bool) {
        let threads = self.ctas[place.cta].threads;
        for lane in lanes(mask) {
            let done = self.ctas[place.cta].warps[place.warp].bulk_groups[lane].saturating_sub(pending);
            let thread = self.thread(place, lane);
            let mut index = 0;
            while index < self.pending.len() {
                let Pending { cta, thread: issuer, effect, .. } = &self.pending[index];
                let is_due =
                    matches!(effect, Effect::Bulk { end: BulkEnd::Group(group), .. } if *group <= done);
                if is_due && (*cta, *issuer) == (place.cta, thread) {
                    self.happen(index);
                } else {
                    index += 1;
                }
            }
            let seen = &mut self.warp(place).views[lane].seen;
            seen.raise(Actor::BulkReads(thread).at(place.cta, threads, done));
            if !read_only {
                seen.raise(Actor::BulkWrites(thread).at(place.cta, threads, done));
            }
        }
    }
}

/// What an H200 demands of a box beyond what the tensor map says: it traps on the first two, and of a row that ends
/// within a run of 16 bytes it overwrites the whole run.
fn check_box(map: &TensorMap, coordinates: &[i32], stores: bool) -> Result<(), String> {
    /// Bytes that the copy engine moves at once.
    const RUN_BYTES: i64 = 16;
    let (Some(first), Some(dim), Some(box_dim)) =
        (coordinates.first(), map.dims.first(), map.box_dims.first())
    else {
        return Ok(());
    };
    let bytes = i64::from(map.element.bytes());
    let (begin, end) = (i64::from(*first) * bytes, (i64::from(*first) + i64::from(*box_dim)) * bytes);
    if begin % RUN_BYTES != 0 {
        return Err(format!(
            "the box begins at byte {begin} of the tensor's rows; needed is a multiple of {RUN_BYTES}"
        ));
    }
    if let Some(negative) = coordinates.iter().find(|coordinate| stores && **coordinate < 0) {
        return Err(format!(
            "a box that is stored begins at {negative}; needed are coordinates of at least 0"
        ));
    }
    let row_end = *dim as i64 * bytes;
    if stores && row_end % RUN_BYTES != 0 && (begin..end).contains(&row_end) {
        return Err(format!(
            "the tensor's rows end at byte {row_end}, within a run of {RUN_BYTES} that is stored as a whole"
        ));
    }
    Ok(())
}

/// What a reduction computes with for a tensor of these elements.
fn element_type(element: ElementType) -> Type {
    match element {
        ElementType::U8 => Type::U8,
        ElementType::U16 => Type::U16,
        ElementType::U32 => Type::U32,
        ElementType::I32 => Type::S32,
        ElementType::U64 => Type::U64,
        ElementType::I64 => Type::S64,
        ElementType::F16 => Type::F16,
        ElementType::F32 | ElementType::Tf32 => Type::F32,
        ElementType::F64 => Type::F64,
        ElementType::Bf16 => Type::Bf16,
    }
}
