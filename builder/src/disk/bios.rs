//! Grub's boot sector and core on a BIOS machine: what `grub-install` writes, written without looking at any device.
//!
//! The rules are those of grub 2.12's util/setup.c and include/grub/i386/pc/boot.h.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use super::gpt::{Extent, SECTOR};

const SECTOR_BYTES: usize = 512;
/// In boot.img: the sector that core.img begins at, 64 bits (`GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const KERNEL_SECTOR: usize = 0x5c;
/// In boot.img: a jump that trusts the drive number of the BIOS (`GRUB_BOOT_MACHINE_DRIVE_CHECK`). On a hard disk grub-install replaces it by
/// two no-operations, for BIOSes that pass a wrong one.
const DRIVE_CHECK: usize = 0x66;
/// Bytes of a sector 0 that belong to the boot code; disk signature and partition table follow.
pub const CODE_BYTES: usize = 440;
/// In core.img: the first entry of the block list, 12 bytes before the end of its first sector: start (64), length (16), segment (16).
const BLOCK_LIST: usize = SECTOR_BYTES - 12;
/// Where the rest of core.img is loaded: 0x8200, one sector after its first (`GRUB_BOOT_MACHINE_KERNEL_SEG` + 0x20).
const SEGMENT: u16 = 0x0820;

/// Why the core cannot be put on the disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// boot.img is not a boot sector.
    #[error("grub's boot.img has {0} bytes instead of 512")]
    BootSize(usize),
    /// core.img has nothing behind its first sector.
    #[error("grub's core.img has {0} bytes, which is no core")]
    CoreSize(usize),
    /// core.img does not fit.
    #[error("grub's core.img takes {sectors} sectors, and the BIOS boot partition has {room}")]
    NoRoom {
        /// What it takes.
        sectors: u64,
        /// What there is.
        room: u64,
    },
}

/// The boot code for sector 0 and the core for the BIOS boot partition at `at`.
///
/// # Errors
/// [`EmbedError`].
pub fn embed(boot: &[u8], core: &[u8], at: Extent) -> Result<([u8; CODE_BYTES], Vec<u8>), EmbedError> {
    if boot.len() != SECTOR_BYTES {
        return Err(EmbedError::BootSize(boot.len()));
    }
    let sectors = (core.len() as u64).div_ceil(SECTOR);
    let room = at.length / SECTOR;
    if sectors < 2 {
        return Err(EmbedError::CoreSize(core.len()));
    }
    let rest =
        u16::try_from(sectors - 1).ok().filter(|_| sectors <= room).ok_or(EmbedError::NoRoom { sectors, room })?;
    let first = at.start / SECTOR;
    let mut code = [0u8; CODE_BYTES];
    code.copy_from_slice(&boot[..CODE_BYTES]);
    code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    let mut core = core.to_vec();
    core.resize(usize::from(rest) * SECTOR_BYTES + SECTOR_BYTES, 0);
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
    core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&rest.to_le_bytes());
    core[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&SEGMENT.to_le_bytes());
    Ok((code, core))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Extent = Extent { start: 1024 * 1024, length: 4 * 1024 * 1024 };

    #[test]
    fn boot_sector_finds_the_core_and_the_core_the_rest_of_itself() {
        let (code, core) = embed(&[0xeb; 512], &[0xcc; 1025], AT).unwrap();
        assert_eq!(code[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(code[0x66..0x68], [0x90, 0x90]);
        assert_eq!((code[0x5b], code[0x64], code[0x68]), (0xeb, 0xeb, 0xeb));
        assert_eq!(core.len(), 3 * 512);
        assert_eq!(core[500..508], 2049u64.to_le_bytes());
        assert_eq!(core[508..510], 2u16.to_le_bytes());
        assert_eq!(core[510..512], [0x20, 0x08]);
        assert_eq!((core[499], core[512], core[1024], core[1025]), (0xcc, 0xcc, 0xcc, 0));
    }

    #[test]
    fn refuses_what_is_no_grub_or_does_not_fit() {
        assert_eq!(embed(&[0; 511], &[0; 1024], AT), Err(EmbedError::BootSize(511)));
        assert_eq!(embed(&[0; 512], &[0; 512], AT), Err(EmbedError::CoreSize(512)));
        let small = Extent { start: 0, length: 1024 };
        assert_eq!(embed(&[0; 512], &[0; 1025], small), Err(EmbedError::NoRoom { sectors: 3, room: 2 }));
    }
}
