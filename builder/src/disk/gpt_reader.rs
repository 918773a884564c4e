//! Reading a partition table: both copies, each checked by its sums and against the other, and no partition over another.
//!
//! Written for disks that somebody else made, so nothing is assumed: not the numbers of partitions, nor their order, nor their places.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use super::gpt::{Extent, SECTOR, crc32};
use super::ident::Uuid;

/// [`SECTOR`], as a length of bytes.
pub const SECTOR_BYTES: usize = 512;
/// Bytes of a header that its sum covers, at least; a longer one covers a whole sector at most.
const HEADER_BYTES: std::ops::RangeInclusive<usize> = 92..=512;
/// The most entries that are looked at. Every known tool makes 128.
const MOST_ENTRIES: u64 = 1024;
/// Bytes of an entry: a power of two from 128 on, as the standard says; no tool makes any other than 128.
const ENTRY_BYTES: std::ops::RangeInclusive<u64> = 128..=1024;

/// A partition, as the table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1 on: its place in the table, not on the disk.
    pub number: usize,
    /// What it is for.
    pub kind: Uuid,
    /// Its own identifier, which the kernel knows as `PARTUUID`.
    pub id: Uuid,
    /// Where it is.
    pub extent: Extent,
}

/// Why a partition table is not to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// There is none, or it is damaged.
    #[error(
        "its {which} GUID partition table: {what}\nhint: a disk made by a cloud's or a distribution's image has both; fetch it anew, or repair it with `sgdisk --verify`"
    )]
    Broken {
        /// `first` or `second`.
        which: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Two sound copies that say different things.
    #[error(
        "its two GUID partition tables differ in {0}\nhint: one of them was changed without the other; `sgdisk --verify` tells more"
    )]
    Differ(&'static str),
    /// Partitions that cannot be there.
    #[error("partition {number} {what}")]
    Impossible {
        /// Which.
        number: usize,
        /// Why.
        what: String,
    },
}

/// A header: where it says that things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    own: u64,
    other: u64,
    usable: std::ops::RangeInclusive<u64>,
    disk: Uuid,
    table: u64,
    count: u64,
    size: u64,
    sum: u32,
}

impl Header {
    /// Reads the header that lies in sector `at` of a disk of `sectors`.
    ///
    /// # Errors
    /// [`GptError::Broken`].
    pub fn parse(sector: &[u8; SECTOR_BYTES], at: u64, sectors: u64) -> Result<Self, GptError> {
        let which = which(at);
        let broken = |what: String| Err(GptError::Broken { which, what });
        if &sector[..8] != b"EFI PART" {
            return broken("there is none".into());
        }
        let length = usize::try_from(number(&sector[12..16])).unwrap_or(usize::MAX);
        if number(&sector[8..12]) != 0x0001_0000 || !HEADER_BYTES.contains(&length) {
            return broken("it is of a form that is not known".into());
        }
        let mut summed = sector[..length].to_vec();
        summed[16..20].fill(0);
        if u64::from(crc32(&summed)) != number(&sector[16..20]) {
            return broken("its header does not have the sum that it names".into());
        }
        let word = |at: usize| number(&sector[at..at + 8]);
        let header = Self {
            own: word(24),
            other: word(32),
            usable: word(40)..=word(48),
            disk: Uuid::from_gpt(array(&sector[56..72])),
            table: word(72),
            count: number(&sector[80..84]),
            size: number(&sector[84..88]),
            sum: u32::try_from(number(&sector[88..92])).unwrap_or_default(),
        };
        if header.own != at {
            return broken(format!("it says that it lies in sector {}, and lies in {at}", header.own));
        }
        if !ENTRY_BYTES.contains(&header.size) || !header.size.is_power_of_two() || header.count > MOST_ENTRIES {
            return broken(format!("it has {} entries of {} bytes", header.count, header.size));
        }
        let end = header.table.checked_add(header.entries_bytes().div_ceil(SECTOR));
        if header.table < 2 || end.is_none_or(|end| end > sectors) || header.other == at || header.other >= sectors {
            return broken("it points out of the disk".into());
        }
        Ok(header)
    }

    /// The sector of the other copy.
    pub fn other(&self) -> u64 {
        self.other
    }

    /// Where its entries are.
    pub fn entries(&self) -> Extent {
        Extent { start: self.table * SECTOR, length: self.entries_bytes() }
    }

    fn entries_bytes(&self) -> u64 {
        self.count * self.size
    }

    fn check(&self, entries: &[u8]) -> Result<(), GptError> {
        if crc32(entries) == self.sum {
            return Ok(());
        }
        let what = "its entries do not have the sum that it names".into();
        Err(GptError::Broken { which: which(self.own), what })
    }
}

fn which(sector: u64) -> &'static str {
    if sector == 1 { "first" } else { "second" }
}

/// The partitions of a disk by number, from both headers and their entries.
///
/// # Errors
/// [`GptError`].
pub fn partitions(first: (&Header, &[u8]), second: (&Header, &[u8])) -> Result<Vec<Partition>, GptError> {
    let ((first, entries), (second, copy)) = (first, second);
    first.check(entries)?;
    second.check(copy)?;
    for (what, same) in [
        ("where the other one is", first.other == second.own && second.other == first.own),
        ("the disk's identifier", first.disk == second.disk),
        ("the room for partitions", first.usable == second.usable),
        ("partitions", (first.size, entries) == (second.size, copy)),
    ] {
        if !same {
            return Err(GptError::Differ(what));
        }
    }
    let size = usize::try_from(first.size).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for (i, entry) in entries.chunks_exact(size).enumerate() {
        if entry[..16].iter().all(|byte| *byte == 0) {
            continue;
        }
        let (start, last) = (number(&entry[32..40]), number(&entry[40..48]));
        let impossible = |what: String| Err(GptError::Impossible { number: i + 1, what });
        if start > last {
            return impossible("ends before it begins".into());
        }
        if !first.usable.contains(&start) || !first.usable.contains(&last) {
            return impossible(format!("lies in sectors {start} to {last}, outside of the room for partitions"));
        }
        found.push(Partition {
            number: i + 1,
            kind: Uuid::from_gpt(array(&entry[..16])),
            id: Uuid::from_gpt(array(&entry[16..32])),
            extent: Extent { start: start * SECTOR, length: (last - start + 1) * SECTOR },
        });
    }
    let mut by_place: Vec<&Partition> = found.iter().collect();
    by_place.sort_by_key(|p| p.extent.start);
    for pair in by_place.windows(2) {
        if pair[0].extent.start + pair[0].extent.length > pair[1].extent.start {
            let what = format!("overlaps with partition {}", pair[0].number);
            return Err(GptError::Impossible { number: pair[1].number, what });
        }
    }
    Ok(found)
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

fn array(bytes: &[u8]) -> [u8; 16] {
    let mut array = [0; 16];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::gpt::{Ids, Layout, render};
    use proptest::prelude::*;

    /// Sectors of the table alone: header and entries of both copies, at their places on the disk.
    struct Disk {
        primary: Vec<u8>,
        backup: Vec<u8>,
        last: u64,
    }

    fn disk() -> (Disk, Layout, Ids) {
        let layout = Layout::new(34, 40, 50);
        let ids = Ids { disk: Uuid([9; 16]), partitions: [1, 2, 3, 4].map(|n| Uuid([n; 16])) };
        let table = render(&layout, &ids);
        (Disk { primary: table.primary, backup: table.backup, last: layout.total / SECTOR - 1 }, layout, ids)
    }

    fn read(disk: &Disk) -> Result<Vec<Partition>, GptError> {
        let sector = |bytes: &[u8]| -> [u8; 512] { bytes.try_into().unwrap() };
        let first = Header::parse(&sector(&disk.primary[..512]), 1, disk.last + 1)?;
        let second = Header::parse(&sector(&disk.backup[disk.backup.len() - 512..]), disk.last, disk.last + 1)?;
        partitions((&first, &disk.primary[512..]), (&second, &disk.backup[..disk.backup.len() - 512]))
    }

    /// Puts a changed table under sums that are right again.
    fn resum(disk: &mut Disk) {
        let cut = disk.backup.len() - 512;
        let sums = [crc32(&disk.primary[512..]), crc32(&disk.backup[..cut])];
        for (head, sum) in [&mut disk.primary[..512], &mut disk.backup[cut..]].into_iter().zip(sums) {
            head[88..92].copy_from_slice(&sum.to_le_bytes());
            head[16..20].fill(0);
            let own = crc32(&head[..92]);
            head[16..20].copy_from_slice(&own.to_le_bytes());
        }
    }

    #[test]
    fn reads_back_what_was_rendered() {
        let (disk, layout, ids) = disk();
        let found = read(&disk).unwrap();
        let told: Vec<_> = found.iter().map(|p| (p.number, p.extent, p.id)).collect();
        let [bios, esp, boot, root] = ids.partitions;
        assert_eq!(
            told,
            [(1, layout.root, root), (14, layout.bios, bios), (15, layout.esp, esp), (16, layout.boot, boot)]
        );
    }

    proptest! {
        /// Sums over everything that is read: no single changed byte goes unseen, but for those that no sum covers.
        #[test]
        fn a_changed_byte_is_found_wherever_it_is(at in 0..33 * 512usize, flip in 1..=255u8, first: bool) {
            let (mut disk, ..) = disk();
            let copy = if first { &mut disk.primary } else { &mut disk.backup };
            copy[at] ^= flip;
            let head = if first { 0 } else { 32 * 512 };
            let covered = !(head + 92..head + 512).contains(&at);
            prop_assert_eq!(read(&disk).is_err(), covered);
        }

        #[test]
        fn no_table_at_all_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 512), at in 1..9u64) {
            let mut sector: [u8; 512] = bytes.try_into().unwrap();
            sector[..8].copy_from_slice(b"EFI PART");
            prop_assert!(Header::parse(&sector, at, 9).is_err());
        }
    }

    #[test]
    fn copies_that_differ_are_refused_though_both_are_sound() {
        let (mut disk, ..) = disk();
        disk.backup[56] ^= 1;
        resum(&mut disk);
        assert_eq!(read(&disk), Err(GptError::Differ("partitions")));
    }

    #[test]
    fn partitions_over_each_other_are_refused() {
        let (mut disk, layout, _) = disk();
        // Partition 1 begins where partition 16 does.
        let start = (layout.boot.start / SECTOR).to_le_bytes();
        disk.primary[512 + 32..512 + 40].copy_from_slice(&start);
        disk.backup[32..40].copy_from_slice(&start);
        resum(&mut disk);
        let error = read(&disk).unwrap_err();
        assert!(error.to_string().contains("overlaps with partition"), "{error}");
    }

    #[test]
    fn a_disk_without_a_table_is_told_so() {
        let error = Header::parse(&[0; 512], 1, 100).unwrap_err();
        assert!(error.to_string().starts_with("its first GUID partition table: there is none"), "{error}");
    }
}
