//! Grub's three configurations: in its core (BIOS), on the ESP (EFI), and the one on /boot that both end at.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use super::ident::Uuid;

/// Modules in core.img: all that [`menu`] needs, so that no module file lies on /boot and none can be missing.
pub const MODULES: [&str; 17] = [
    "biosdisk",
    "part_gpt",
    "ext2",
    "normal",
    "configfile",
    "search",
    "search_fs_uuid",
    "linux",
    "echo",
    "test",
    "serial",
    "terminal",
    "sleep",
    "reboot",
    "halt",
    "ls",
    "minicmd",
];

/// Finds /boot by its UUID, never by its label: another disk may have the stock label, none has this UUID. Then goes on there.
pub fn finder(boot: Uuid) -> String {
    // After configfile comes back, something is broken for good; without the reboot a BIOS machine would sit at a prompt.
    format!(
        "search --no-floppy --fs-uuid --set=root {boot}\nset prefix=($root)/grub\nconfigfile $prefix/grub.cfg\n\
         echo \"kiln: no /boot on this disk; rebooting in 30 seconds\"\nsleep 30\nreboot\n"
    )
}

/// Starts the one kernel at once. A menu would be a choice, and there is none: another image is another disk.
pub fn menu(root_partition: Uuid, command_line: &str) -> String {
    format!(
        "# Written by kiln. The signed grub of EFI machines has no serial module; their firmware puts the console on the serial line by itself.\n\
         if [ \"$grub_platform\" = pc ]; then\n  serial --unit=0 --speed=115200\n  terminal_input console serial\n  terminal_output console serial\nfi\n\
         linux /vmlinuz root=PARTUUID={root_partition} {command_line}\ninitrd /initrd.img\nboot\n\
         echo \"kiln: the kernel did not start; rebooting in 30 seconds\"\nsleep 30\nreboot\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_starts_the_kernel_on_the_root_of_this_disk() {
        let text = menu(Uuid([0xab; 16]), "ro panic=30");
        assert!(
            text.contains("\nlinux /vmlinuz root=PARTUUID=abababab-abab-abab-abab-abababababab ro panic=30\n"),
            "{text}"
        );
        assert!(!text.contains("timeout") && text.ends_with("reboot\n"));
    }

    #[test]
    fn boot_is_found_by_its_uuid() {
        let text = finder(Uuid([1; 16]));
        assert!(text.starts_with("search --no-floppy --fs-uuid --set=root 01010101-0101-0101-0101-010101010101\n"));
    }
}
