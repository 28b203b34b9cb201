//! Global memory: allocations with addresses of their own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Where the first allocation begins; far from anything a kernel could make up from small numbers.
const BASE: u64 = 0x7f00_0000_0000;

/// Alignment of allocations, as the driver's.
const ALIGNMENT: u64 = 256;

/// Addresses left unused behind each allocation, so that an overrun hits nothing.
const GUARD: u64 = 4096;

/// The global memory of an emulated GPU. Shared by all launches on it; cheap to look up, safe to use from any thread.
#[derive(Debug, Default)]
pub struct GlobalMemory {
    allocations: RwLock<BTreeMap<u64, Arc<Allocation>>>,
    /// Bytes handed out so far, guards included. Addresses are never used twice.
    used: RwLock<u64>,
}

/// One allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    words: Box<[AtomicU32]>,
    /// For each word, which of its four bytes have been written.
    written: Box<[AtomicU8]>,
}

/// An access to memory that no allocation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {address:#x} are not all in one allocation")]
pub struct NotAllocated {
    /// First byte.
    pub address: u64,
    /// How many.
    pub bytes: u64,
}

impl GlobalMemory {
    /// No allocations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reserves `bytes` bytes and returns their address, a multiple of 256. Nothing has been written there: reading it
    /// from a kernel is a finding.
    pub fn allocate(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        let mut used = self.used.write().unwrap_or_else(PoisonError::into_inner);
        let base = BASE + *used;
        *used += bytes.next_multiple_of(ALIGNMENT) + GUARD;
        let allocation = Allocation::new(base, bytes);
        self.allocations.write().unwrap_or_else(PoisonError::into_inner).insert(base, Arc::new(allocation));
        base
    }

    /// Gives an allocation back. Returns whether there was one at this address.
    pub fn free(&self, address: u64) -> bool {
        self.allocations.write().unwrap_or_else(PoisonError::into_inner).remove(&address).is_some()
    }

    /// Writes bytes, as a copy from the host does.
    ///
    /// # Errors
    /// Where no allocation covers them.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), NotAllocated> {
        let allocation = self.find(address, data.len() as u64)?;
        allocation.store(address, data);
        Ok(())
    }

    /// Reads bytes, as a copy to the host does. What nothing has written reads as some pattern.
    ///
    /// # Errors
    /// Where no allocation covers them.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), NotAllocated> {
        let allocation = self.find(address, data.len() as u64)?;
        allocation.load(address, data);
        Ok(())
    }

    /// The allocations as they are now, by address.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Allocation>> {
        self.allocations.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    fn find(&self, address: u64, bytes: u64) -> Result<Arc<Allocation>, NotAllocated> {
        let allocations = self.allocations.read().unwrap_or_else(PoisonError::into_inner);
        let below = allocations.range(..=address).next_back().map(|(_, allocation)| allocation);
        match below {
            Some(allocation) if allocation.contains(address, bytes) => Ok(Arc::clone(allocation)),
            _ => Err(NotAllocated { address, bytes }),
        }
    }
}

impl Allocation {
    /// Memory at an address with these contents.
    pub(crate) fn with_contents(base: u64, data: &[u8]) -> Self {
        let allocation = Self::new(base, data.len() as u64);
        allocation.store(base, data);
        allocation
    }

    fn new(base: u64, bytes: u64) -> Self {
        /// What memory holds before anything is written there.
        const PATTERN: u32 = 0xdead_beef;
        let words = bytes.div_ceil(4) as usize;
        Self {
            base,
            bytes,
            words: (0..words).map(|_| AtomicU32::new(PATTERN)).collect(),
            written: (0..words).map(|_| AtomicU8::new(0)).collect(),
        }
    }

    /// Whether all of the bytes are here.
    pub(crate) fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.base && bytes <= self.bytes && address - self.base <= self.bytes - bytes
    }

    /// Reads bytes that are here.
    pub(crate) fn load(&self, address: u64, data: &mut [u8]) {
        let offset = (address - self.base) as usize;
        if offset.is_multiple_of(4) && data.len().is_multiple_of(4) {
            for (word, bytes) in self.words[offset / 4..].iter().zip(data.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            return;
        }
        for (i, byte) in data.iter_mut().enumerate() {
            let at = offset + i;
            *byte = self.words[at / 4].load(Ordering::Relaxed).to_le_bytes()[at % 4];
        }
    }

    /// Writes bytes that are here.
    pub(crate) fn store(&self, address: u64, data: &[u8]) {
        let offset = (address - self.base) as usize;
        if offset.is_multiple_of(4) && data.len().is_multiple_of(4) {
            let words = self.words[offset / 4..].iter().zip(&self.written[offset / 4..]);
            for ((word, written), bytes) in words.zip(data.chunks_exact(4)) {
                word.store(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), Ordering::Relaxed);
                written.store(0xf, Ordering::Relaxed);
            }
            return;
        }
        for (i, &byte) in data.iter().enumerate() {
            let at = offset + i;
            let shift = at % 4 * 8;
            let replace = |word: u32| Some(word & !(0xff << shift) | u32::from(byte) << shift);
            // It always succeeds, as the closure never declines.
            let _ = self.words[at / 4].fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace);
            self.written[at / 4].fetch_or(1 << (at % 4), Ordering::Relaxed);
        }
    }

    /// Says of each of these bytes, which are here, whether it has been written.
    pub(crate) fn copy_written(&self, address: u64, flags: &mut [bool]) {
        let offset = (address - self.base) as usize;
        for (at, flag) in (offset..).zip(flags) {
            *flag = self.written[at / 4].load(Ordering::Relaxed) & 1 << (at % 4) != 0;
        }
    }

    /// Whether all of these bytes, which are here, have been written.
    pub(crate) fn is_written(&self, address: u64, bytes: u64) -> bool {
        let offset = (address - self.base) as usize;
        (offset..offset + bytes as usize)
            .all(|at| self.written[at / 4].load(Ordering::Relaxed) & 1 << (at % 4) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let memory = GlobalMemory::new();
        let address = memory.allocate(11);
        assert!(address.is_multiple_of(ALIGNMENT));
        memory.write(address, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        memory.write(address + 5, &[9, 10, 11, 12, 13, 14]).unwrap();
        let mut data = [0; 11];
        memory.read(address, &mut data).unwrap();
        assert_eq!(data, [1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14]);
    }

    #[test]
    fn nothing_is_reachable_outside_allocations() {
        let memory = GlobalMemory::new();
        let (first, second) = (memory.allocate(16), memory.allocate(16));
        assert!(second - first >= 16 + GUARD);
        let outside = [(first - 1, 1), (first + 12, 5), (first + 16, 1), (0, 1), (u64::MAX, 2)];
        for (address, bytes) in outside {
            let error = memory.write(address, &vec![0; bytes]).unwrap_err();
            assert_eq!(error, NotAllocated { address, bytes: bytes as u64 });
        }
        assert!(memory.free(first) && !memory.free(first));
        assert!(memory.read(first, &mut [0]).is_err() && memory.read(second, &mut [0]).is_ok());
    }

    #[test]
    fn knows_which_bytes_were_written() {
        let memory = GlobalMemory::new();
        let address = memory.allocate(12);
        memory.write(address + 3, &[0; 6]).unwrap();
        let allocation = memory.find(address, 12).unwrap();
        assert!(allocation.is_written(address + 3, 6));
        assert!(!allocation.is_written(address + 2, 2) && !allocation.is_written(address + 8, 2));
    }
}
