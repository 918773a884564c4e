//! The disk image: GPT with BIOS boot, ESP, /boot and root, made without a loop device and without root.
//!
//! Two layers. [`build_boot`] makes everything that depends on the base alone: the file system of /boot, the ESP, grub's boot sector and core.
//! [`assemble`] streams the base's tar with the image's own files into the root file system and puts the parts together, so that a change of
//! firstboot costs little more than copying the disk. The same spec gives the same bytes: all identifiers come from keys, all times from `epoch`.
