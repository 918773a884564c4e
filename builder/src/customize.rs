//! What is done inside a base by programs of its own, in the appliance of virt-customize: the wishes, and the script that fulfils them. Pure.
//!
//! The appliance has no network. What is installed are pinned packages, so that a step of [`Customize`] depends on nothing but the recipe. What
//! its commands leave behind is another matter: file systems that a kernel wrote to are not the same bytes twice, and commands may do as they like.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::key::KeyHasher;
use crate::tool::shell_quote;

/// Where the files for a run lie in the base while it lasts.
pub const PLACE: &str = "/var/tmp";
/// The directory of that name in [`PLACE`], and on the build host.
pub const DIRECTORY: &str = "kiln-customize";
/// In [`DIRECTORY`]: files to put into the base, as a tar.
pub const FILES: &str = "files.tar";
/// In [`DIRECTORY`]: packages to install.
pub const PACKAGES: &str = "packages";
/// In [`DIRECTORY`]: grub's configuration, where the base starts itself.
pub const MENU: &str = "grub.cfg";
/// The first bytes of the empty disk that takes the tree as a tar: the script finds it by them, not by a name that may be another's.
pub const MARK: &str = "kiln: the tree goes here";

/// What is done to a base, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Customize {
    /// Packages that go, with their configuration and whatever needs them. One that is not there is no error: images differ from month to month.
    pub remove: Vec<String>,
    /// Units that never start.
    pub mask: Vec<String>,
    /// Lines for a shell, run in turn after the packages came and before the initrd is made; each must succeed.
    pub run: Vec<String>,
    /// Files and directories that go at the end, as patterns of a shell.
    pub delete: Vec<String>,
}

impl Customize {
    /// Adds it to a key.
    pub fn add_to(&self, hasher: &mut KeyHasher) {
        hasher.texts("remove", &self.remove);
        hasher.texts("mask", &self.mask);
        hasher.texts("run", &self.run);
        hasher.texts("delete", &self.delete);
    }
}

/// What a script is to do beside the wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// The wishes.
    pub customize: &'a Customize,
    /// Whether the base starts itself, so that its initrd and grub's configuration are made in it.
    pub starts_itself: bool,
    /// The time of what is newer, Unix seconds.
    pub epoch: i64,
    /// What no base may keep: lines for a shell, with the base's top directory as `$1`.
    pub clean: &'a str,
}

impl Script<'_> {
    /// The script, for a POSIX shell in the base.
    pub fn render(&self) -> String {
        let Customize { remove, mask, run, delete } = self.customize;
        let mut text = format!("{HEAD}here={PLACE}/{DIRECTORY}\n");
        // Writing to a string cannot fail.
        let words = |list: &[String]| list.iter().map(|word| shell_quote(word)).collect::<Vec<_>>().join(" ");
        if !remove.is_empty() {
            let _ = write!(text, "{}", REMOVE.replace("@NAMES@", &words(remove)));
        }
        let _ = write!(text, "{PUT}");
        for unit in mask {
            let _ = writeln!(text, "ln -sfn /dev/null {}", shell_quote(&format!("/etc/systemd/system/{unit}")));
        }
        for line in run {
            let _ = writeln!(text, "say {0}\nsh -euc {0}", shell_quote(line));
        }
        if self.starts_itself {
            text.push_str(START);
        }
        // Patterns were checked when the definition was read: without quotes they are for the shell.
        for pattern in delete {
            let _ = writeln!(text, "rm -rf -- {pattern}");
        }
        let _ = write!(
            text,
            "rm -rf \"$here\" /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/kiln-customize /var/lib/urandom/random-seed /var/lib/random-seed\nsh -c {} clean /\n",
            shell_quote(self.clean)
        );
        let _ = write!(text, "{}", TREE.replace("@MARK@", MARK).replace("@EPOCH@", &self.epoch.to_string()));
        text
    }
}

const HEAD: &str = r#"#!/bin/sh
# Written by kiln: runs in the base, in an appliance without a network.
set -eu
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C.UTF-8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { echo "kiln: $*"; }
die() { echo "kiln: $*" >&2; exit 1; }
# Scripts of packages must not start what they bring.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
# A disk that counts only if all of this ends well need not survive a power cut on the way: dpkg and the initrd's tools sync at every turn.
for at in / /boot; do mount -o remount,nobarrier "$at" 2>/dev/null || true; done
echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/kiln-customize
"#;

/// apt takes with a package what cannot be without it; a base without apt has little that could.
const REMOVE: &str = r#"going=
for name in @NAMES@; do
    case "$(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null || true)" in
    '' | not-installed) say "$name is not there" ;;
    *) going="$going $name" ;;
    esac
done
if [ -n "$going" ]; then
    say "removing$going"
    if command -v apt-get >/dev/null; then
        apt-get --quiet --quiet --yes --no-download --option Dpkg::Use-Pty=0 purge $going
    else
        dpkg --purge $going
    fi
fi
"#;

/// Directories that are there stay as they are: owners, modes, and links to directories.
const PUT: &str = r#"[ ! -e "$here/files.tar" ] || tar --extract --file "$here/files.tar" --directory / --no-overwrite-dir --keep-directory-symlink
if [ -d "$here/packages" ]; then
    say "installing $(ls "$here/packages")"
    dpkg --install "$here"/packages/*.deb ||
        die "packages are installed exactly as listed: what one of them lacks must be listed too, under install"
fi
"#;

/// What `[boot]` of an archive base does on the build host. An initrd without the overlay would start a node that firstboot halts.
const START: &str = r#"[ "$(stat -c %d /)" != "$(stat -c %d /boot)" ] || die "/boot is no file system of its own in the image's /etc/fstab"
set -- /boot/vmlinuz-*
[ $# = 1 ] && [ -f "$1" ] || die "the image has not exactly one kernel in /boot: $*"
version=${1#/boot/vmlinuz-}
update-initramfs -u -k "$version"
[ -f "/boot/initrd.img-$version" ] || die "no initrd was made for kernel $version"
lsinitramfs "/boot/initrd.img-$version" > "$here/initrd"
grep -q '^scripts/init-bottom/kiln-overlay$' "$here/initrd" || die "the initrd lacks kiln's overlay: base_tree is not what it is made from"
ln -sfn "vmlinuz-$version" /boot/vmlinuz
ln -sfn "initrd.img-$version" /boot/initrd.img
rm -f /boot/*.old /boot/initrd.img-*.dpkg-bak
mkdir -p /boot/grub
cp "$here/grub.cfg" /boot/grub/grub.cfg
"#;

/// The tree as a tar on the disk that waits for it: owners, attributes, no times of reading and of making, none later than the lock's. Seen from
/// /mnt it has nothing mounted on it: not /boot, and not /sys, which changes while it is read.
const TREE: &str = r#"target=
for disk in /dev/sd? /dev/vd?; do
    [ -b "$disk" ] && [ "$(head -c 24 "$disk")" = '@MARK@' ] && target=$disk
done
[ -n "$target" ] || die "the disk for the tree is not there"
say "writing the tree to $target"
mount --bind / /mnt
tar --create --file "$target" --blocking-factor 2048 --directory /mnt --one-file-system --sort=name --numeric-owner \
    --format=pax --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --xattrs --xattrs-include='*' \
    --mtime=@@EPOCH@ --clamp-mtime --warning=no-file-ignored --exclude='./tmp/*' .
umount /mnt
sync
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::Tool;

    fn script(customize: &Customize, starts_itself: bool) -> String {
        Script { customize, starts_itself, epoch: 1_700_000_000, clean: "cd \"$1\"" }.render()
    }

    #[test]
    fn does_what_is_wished_in_order_and_quotes_what_is_not_its_own() {
        let customize = Customize {
            remove: vec!["snapd".into(), "cloud-init".into()],
            mask: vec!["motd-news.timer".into()],
            run: vec!["echo 'a b' > /etc/x".into()],
            delete: vec!["/var/lib/cloud/*".into()],
        };
        let text = script(&customize, true);
        let parts = [
            "for name in snapd cloud-init; do",
            "--extract --file \"$here/files.tar\"",
            "dpkg --install",
            "ln -sfn /dev/null /etc/systemd/system/motd-news.timer",
            r"sh -euc 'echo '\''a b'\'' > /etc/x'",
            "update-initramfs -u",
            "rm -rf -- /var/lib/cloud/*",
            "sh -c 'cd \"$1\"' clean /",
            "--mtime=@1700000000",
        ];
        let at: Vec<_> =
            parts.iter().map(|part| text.find(part).unwrap_or_else(|| panic!("{part} in\n{text}"))).collect();
        assert!(at.is_sorted(), "{at:?}");
    }

    #[test]
    fn a_base_that_kiln_starts_keeps_its_initrd() {
        let text = script(&Customize::default(), false);
        assert!(!text.contains("update-initramfs") && !text.contains("grub") && !text.contains("apt-get"), "{text}");
    }

    #[test]
    fn a_shell_understands_it() {
        let all = Customize {
            remove: vec!["a".into()],
            mask: vec!["b@.service".into()],
            run: vec!["true; #'".into()],
            delete: vec!["/x/[ab]*".into()],
        };
        Tool::new("sh").arg("-n").stdin_bytes(script(&all, true)).run().unwrap();
    }

    #[test]
    fn the_mark_is_as_long_as_the_script_thinks() {
        assert_eq!(MARK.len(), 24);
        assert!(TREE.contains("head -c 24"));
    }
}
