//! The partition table: numbers, order and labels of the stock cloud image, so that tools which know that one know ours.
//!
//! Written by hand rather than by sgdisk: it is 34 sectors, and sgdisk ends with a `sync` of the whole machine.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use super::ident::Uuid;

/// Bytes of a sector; a virtual disk's, always.
pub const SECTOR: u64 = 512;
const MIB: u64 = 1024 * 1024;
/// Where the first partition begins and what all are aligned to.
const ALIGN: u64 = MIB;
/// The BIOS boot partition of the stock image. Grub's core takes a tenth of it.
const BIOS_MIB: u64 = 4;
const ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 128;
/// Sectors of the entries.
const TABLE_SECTORS: u64 = (ENTRIES * ENTRY_BYTES) as u64 / SECTOR;

const TYPE_BIOS: Uuid = Uuid(*b"\x21\x68\x61\x48\x64\x49\x6e\x6f\x74\x4e\x65\x65\x64\x45\x46\x49");
const TYPE_ESP: Uuid =
    Uuid([0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);
const TYPE_LINUX: Uuid =
    Uuid([0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4]);
const TYPE_BOOT: Uuid =
    Uuid([0xbc, 0x13, 0xc2, 0xff, 0x59, 0xe6, 0x42, 0x62, 0xa3, 0x52, 0xb2, 0x75, 0xfd, 0x6f, 0x71, 0x72]);

/// A stretch of the disk in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Where everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Partition 14: grub's core for BIOS machines.
    pub bios: Extent,
    /// Partition 15: the EFI system partition.
    pub esp: Extent,
    /// Partition 16: /boot.
    pub boot: Extent,
    /// Partition 1: the root.
    pub root: Extent,
    /// Bytes of the whole disk.
    pub total: u64,
}

impl Layout {
    /// Lays out a disk with file systems of these sizes in MiB.
    pub fn new(esp_mib: u64, boot_mib: u64, root_mib: u64) -> Self {
        let after = |before: Extent, mib: u64| Extent { start: before.start + before.length, length: mib * MIB };
        let bios = Extent { start: ALIGN, length: BIOS_MIB * MIB };
        let esp = after(bios, esp_mib);
        let boot = after(esp, boot_mib);
        let root = after(boot, root_mib);
        // The backup table needs 33 sectors; a whole MiB keeps the disk's size round.
        Self { bios, esp, boot, root, total: root.start + root.length + ALIGN }
    }
}

/// The identifiers a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The disk's.
    pub disk: Uuid,
    /// The four partitions', in the order bios, ESP, boot, root.
    pub partitions: [Uuid; 4],
}

/// The bytes of a partition table, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// For sector 0 from byte 440 on: disk signature and the protective MBR's partition table.
    pub protective: [u8; 72],
    /// For sector 1: header and entries.
    pub primary: Vec<u8>,
    /// For [`Table::backup_at`]: entries and header.
    pub backup: Vec<u8>,
    /// Byte where the backup begins.
    pub backup_at: u64,
}

/// Renders the partition table of a layout.
pub fn render(layout: &Layout, ids: &Ids) -> Table {
    let mut entries = vec![0u8; ENTRIES * ENTRY_BYTES];
    let partitions = [
        (14, layout.bios, TYPE_BIOS, "BIOS"),
        (15, layout.esp, TYPE_ESP, "UEFI"),
        (16, layout.boot, TYPE_BOOT, "BOOT"),
        (1, layout.root, TYPE_LINUX, "cloudimg-rootfs"),
    ];
    for ((number, extent, kind, name), id) in partitions.into_iter().zip(ids.partitions) {
        let entry = &mut entries[(number - 1) * ENTRY_BYTES..number * ENTRY_BYTES];
        entry[0..16].copy_from_slice(&kind.to_gpt());
        entry[16..32].copy_from_slice(&id.to_gpt());
        entry[32..40].copy_from_slice(&(extent.start / SECTOR).to_le_bytes());
        entry[40..48].copy_from_slice(&((extent.start + extent.length) / SECTOR - 1).to_le_bytes());
        for (i, unit) in name.encode_utf16().enumerate() {
            entry[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let last = layout.total / SECTOR - 1;
    let backup_entries = last - TABLE_SECTORS;
    let sum = crc32(&entries);
    let head = |own: u64, other: u64, table: u64| {
        let mut sector = vec![0u8; 512];
        sector[0..8].copy_from_slice(b"EFI PART");
        sector[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        sector[12..16].copy_from_slice(&92u32.to_le_bytes());
        sector[24..32].copy_from_slice(&own.to_le_bytes());
        sector[32..40].copy_from_slice(&other.to_le_bytes());
        sector[40..48].copy_from_slice(&(2 + TABLE_SECTORS).to_le_bytes());
        sector[48..56].copy_from_slice(&(backup_entries - 1).to_le_bytes());
        sector[56..72].copy_from_slice(&ids.disk.to_gpt());
        sector[72..80].copy_from_slice(&table.to_le_bytes());
        sector[80..84].copy_from_slice(&128u32.to_le_bytes());
        sector[84..88].copy_from_slice(&128u32.to_le_bytes());
        sector[88..92].copy_from_slice(&sum.to_le_bytes());
        // The header's own sum is taken with its field zero.
        let own_sum = crc32(&sector[..92]);
        sector[16..20].copy_from_slice(&own_sum.to_le_bytes());
        sector
    };
    Table {
        protective: protective(last),
        primary: [head(1, last, 2), entries.clone()].concat(),
        backup: [entries, head(last, 1, backup_entries)].concat(),
        backup_at: backup_entries * SECTOR,
    }
}

/// One partition of type EE over the whole disk, so that tools which know no GPT keep their hands off.
fn protective(last: u64) -> [u8; 72] {
    let mut bytes = [0u8; 72];
    let entry = &mut bytes[6..22];
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    bytes[70..72].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// CRC-32 as in zlib and GPT, bit by bit: 16 KiB are summed twice per build.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |s, _| if s & 1 == 1 { (s >> 1) ^ 0xedb8_8320 } else { s >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_each_other_and_leave_room_for_the_backup() {
        let layout = Layout::new(106, 128, 640);
        assert_eq!(layout.bios, Extent { start: MIB, length: 4 * MIB });
        assert_eq!(layout.esp, Extent { start: 5 * MIB, length: 106 * MIB });
        assert_eq!(layout.boot, Extent { start: 111 * MIB, length: 128 * MIB });
        assert_eq!(layout.root, Extent { start: 239 * MIB, length: 640 * MIB });
        assert_eq!(layout.total, 880 * MIB);
    }

    #[test]
    fn crc_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn both_copies_of_the_table_point_at_each_other() {
        let layout = Layout::new(1, 1, 1);
        let id = Uuid([7; 16]);
        let table = render(&layout, &Ids { disk: id, partitions: [id; 4] });
        let last = layout.total / SECTOR - 1;
        assert_eq!(table.primary.len() as u64, 33 * SECTOR);
        assert_eq!(table.backup_at, (last - 32) * SECTOR);
        let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let backup_head = &table.backup[32 * 512..];
        assert_eq!((u64_at(&table.primary, 24), u64_at(&table.primary, 32), u64_at(&table.primary, 72)), (1, last, 2));
        assert_eq!((u64_at(backup_head, 24), u64_at(backup_head, 32), u64_at(backup_head, 72)), (last, 1, last - 32));
        // Partition 1 is the root, the last on the disk.
        assert_eq!(u64_at(&table.primary, 512 + 32), layout.root.start / SECTOR);
        assert_eq!(table.protective[70..], [0x55, 0xaa]);
    }
}
