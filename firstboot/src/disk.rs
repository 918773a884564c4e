//! `firstboot disk`: the root one-shot that finds, checks, formats and mounts the data disk and unpacks the seed.
//!
//! Bad facts are its result, not its failure: it ends with an error only when it cannot even write down what it found.
#![expect(clippy::disallowed_methods, reason = "an edge: disks are looked at here, and udev is waited for")]

use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use nix::mount::MsFlags;

use crate::cluster::ClusterConfig;
use crate::digest::Id128;
use crate::disk_fact::{DataFact, DiskFacts, RootFact, SeedFact, WalFact};
use crate::durable;
use crate::format::{self, Content};
use crate::journal;
use crate::mount_table::{Mount, mount_at};
use crate::paths::{DATA_SERIAL, ETCD_UID, FIRSTBOOT_UID, Paths, SEED_SERIAL};
use crate::seed::SeedHeader;
use crate::seed_disk;
use crate::system::Program;
use crate::volume::VolumeLabel;
use crate::wal;

/// How long udev may take to name the two disks once it has nothing else to do, in steps of 100 ms.
const NAMING_STEPS: u32 = 30;
/// How long it may have something to do, in steps of 100 ms: on an emulated machine with a busy host that has been seen to be a minute.
const QUEUE_STEPS: u32 = 900;
/// The one file that an empty directory of a container may hold: what a cut left of writing the label.
const LABEL_REST: &str = "volume.json.new";

/// Looks, mends what may be mended, and writes [`Paths::disk_json`].
///
/// # Errors
/// When the facts cannot be written.
pub fn run(paths: &Paths) -> anyhow::Result<()> {
    journal::connect(paths.root());
    if !in_container(paths) {
        let named = || paths.disk(DATA_SERIAL).exists() && paths.disk(SEED_SERIAL).exists();
        let step = |_| std::thread::sleep(Duration::from_millis(100));
        // udev keeps this file for as long as it has events to handle.
        let busy = || paths.root().join("run/udev/queue").exists();
        (0..QUEUE_STEPS).take_while(|_| busy() && !named()).for_each(step);
        // A disk that is not there at all costs this wait once per boot.
        (0..NAMING_STEPS).take_while(|_| !named()).for_each(step);
    }
    let facts = settle(paths)?;
    let data = match &facts.data {
        DataFact::Mounted { label, formatted_now: true, .. } => {
            format!("data disk was blank and is formatted for {}", label.fqdn)
        }
        DataFact::Mounted { label, free_mib, .. } => {
            format!("data disk of {} is mounted, {free_mib} MiB free", label.fqdn)
        }
        DataFact::Absent(why) | DataFact::Unusable(why) | DataFact::ReadOnly(why) => format!("data disk: {why}"),
    };
    let seed = match &facts.seed {
        SeedFact::Unpacked => "seed is unpacked".to_owned(),
        SeedFact::Absent(why) | SeedFact::Unreadable(why) => format!("seed: {why}"),
    };
    let json = serde_json::to_string(&facts)?;
    journal::tell(&journal::DISKS, &format!("{data}; {seed}"), &[("KILN_DISKS", &json)]);
    Ok(())
}

/// Unpacks the seed and mounts the data volume unless that is done, writes down what is found and hands it back.
///
/// # Errors
/// When the facts cannot be written.
pub fn settle(paths: &Paths) -> anyhow::Result<DiskFacts> {
    fs_err::create_dir_all(paths.run())?;
    let container = in_container(paths);
    let seed = seed_disk::ensure_unpacked(paths, container);
    let data = match (visible_mount(paths), &seed) {
        (Some(_), _) if !container => data_fact(paths, false),
        (_, SeedFact::Unpacked) => mount_data(paths, container),
        (_, SeedFact::Absent(_) | SeedFact::Unreadable(_)) => {
            DataFact::Unusable("it is left alone, because without a seed nothing says whose it is".into())
        }
    };
    let facts = complete(paths, data, seed);
    let json = serde_json::to_vec_pretty(&facts)?;
    durable::replace(&paths.disk_json(), &json, 0o644).context("writing what was found on the disks")?;
    Ok(facts)
}

/// Looks and changes nothing.
pub fn look(paths: &Paths) -> DiskFacts {
    let data = match visible_mount(paths) {
        Some(_) => data_fact(paths, false),
        None => DataFact::Absent(format!("nothing is mounted at `{}`", paths.data().display())),
    };
    let seed = if paths.seed_dir().join(crate::seed::HEADER).exists() {
        SeedFact::Unpacked
    } else {
        SeedFact::Absent("it is not unpacked".into())
    };
    complete(paths, data, seed)
}

fn complete(paths: &Paths, data: DataFact, seed: SeedFact) -> DiskFacts {
    let wal = match &data {
        DataFact::Mounted { .. } => wal_fact(&paths.wal()),
        DataFact::Absent(_) | DataFact::Unusable(_) | DataFact::ReadOnly(_) => WalFact::Unknown,
    };
    DiskFacts { root: root_fact(paths), data: remember_formatting(paths, data), seed, wal }
}

/// systemd's own word for it; a VM has no way to make that file appear before systemd runs.
fn in_container(paths: &Paths) -> bool {
    paths.root().join("run/systemd/container").exists()
}

fn mounted(point: &Path) -> Option<Mount> {
    mount_at(&fs_err::read_to_string("/proc/self/mountinfo").ok()?, point)
}

fn visible_mount(paths: &Paths) -> Option<Mount> {
    mounted(&paths.data())
}

fn root_fact(paths: &Paths) -> RootFact {
    match mounted(paths.root()) {
        Some(mount) if mount.fstype == "overlay" => RootFact::Overlay,
        Some(mount) => RootFact::Other(mount.fstype),
        None => RootFact::Other("no mount point".into()),
    }
}

/// Mounts the data volume, formatting it first if it is blank and this node's seed is there.
fn mount_data(paths: &Paths, container: bool) -> DataFact {
    let done = header(paths)
        .and_then(|header| if container { adopt_directory(paths, &header) } else { mount_disk(paths, &header) });
    match done {
        Ok(Ok(formatted)) => data_fact(paths, formatted),
        Ok(Err(fact)) => fact,
        Err(error) => DataFact::Unusable(format!("{error:#}")),
    }
}

/// Whom the seed is for, if it is of the cluster that this image was built for.
fn header(paths: &Paths) -> anyhow::Result<SeedHeader> {
    let header = seed_disk::read_header(paths).context("reading whom the seed is for")?;
    let text = fs_err::read_to_string(paths.cluster_json())?;
    let cluster: ClusterConfig = serde_json::from_str(&text).context("reading the image's `cluster.json`")?;
    ensure!(
        header.cluster == cluster.cluster && header.env == cluster.env,
        "the seed is for cluster {} (`{}`), the image for {} (`{}`)",
        header.cluster,
        header.env,
        cluster.cluster,
        cluster.env
    );
    Ok(header)
}

fn new_label(header: &SeedHeader) -> anyhow::Result<VolumeLabel> {
    Ok(VolumeLabel {
        schema: 1,
        env: header.env.clone(),
        cluster: header.cluster,
        generation: header.generation,
        fqdn: header.fqdn.clone(),
        instance: Id128::random().map_err(|_| anyhow!("the system has no randomness to give"))?,
    })
}

/// Returns whether the disk was formatted, or the fact that stands in the way.
fn mount_disk(paths: &Paths, header: &SeedHeader) -> anyhow::Result<Result<bool, DataFact>> {
    let link = paths.disk(DATA_SERIAL);
    let device = match fs_err::canonicalize(&link) {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = format!("no disk has the serial `{DATA_SERIAL}` (`{}` does not exist)", link.display());
            return Ok(Err(DataFact::Absent(why)));
        }
        Err(error) => return Err(error.into()),
    };
    ensure!(fs_err::metadata(&device)?.file_type().is_block_device(), "`{}` is not a block device", device.display());
    let twins = disks_of_serial(paths, DATA_SERIAL);
    if twins.len() > 1 {
        let why = format!("{} disks have the serial `{DATA_SERIAL}`: {}", twins.len(), twins.join(", "));
        return Ok(Err(DataFact::Absent(why)));
    }
    let formatted = match format::probe(&device, header)? {
        Content::Foreign(what) => return Ok(Err(DataFact::Unusable(what))),
        Content::Ours => {
            check_file_system(&device)?;
            None
        }
        Content::Blank => Some(new_label(header)?),
        Content::Claimed(label) => Some(VolumeLabel { generation: header.generation, ..label }),
    };
    if let Some(label) = &formatted {
        format::format(&device, label, header)?;
    }
    mount(&device, &paths.data())?;
    if let Some(label) = &formatted {
        write_label(paths, label)?;
    }
    make_directories(paths)?;
    if formatted.is_some() {
        // Label and directories must be on the disk before the claim, which would have them made again, is gone.
        nix::unistd::syncfs(fs_err::File::open(paths.data())?)?;
        format::release(&device)?;
    }
    Ok(Ok(formatted.is_some()))
}

/// All block devices whose virtio serial is `serial`; udev's link shows only one of them.
fn disks_of_serial(paths: &Paths, serial: &str) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(paths.root().join("sys/block")) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| fs_err::read_to_string(entry.path().join("serial")).is_ok_and(|text| text.trim() == serial))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Replays the journal and mends what needs no judgement.
fn check_file_system(device: &Path) -> anyhow::Result<()> {
    let check = Program::new("e2fsck").arg("-p").arg(device.to_string_lossy());
    let ran = check.run()?;
    match ran.code {
        // 1: errors were corrected. 2 (reboot) is for mounted file systems and is as good here.
        Some(0..=3) => Ok(()),
        Some(_) | None => Err(check.ended(&ran)).context("checking the data disk's file system"),
    }
}

fn mount(device: &Path, point: &Path) -> anyhow::Result<()> {
    fs_err::create_dir_all(point)?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    nix::mount::mount(Some(device), point, Some("ext4"), flags, Some("errors=remount-ro"))
        .with_context(|| format!("mounting `{}` on `{}`", device.display(), point.display()))
}

/// In a container the data volume is a directory of the host, bind-mounted: blank means completely empty.
fn adopt_directory(paths: &Paths, header: &SeedHeader) -> anyhow::Result<Result<bool, DataFact>> {
    if visible_mount(paths).is_none() {
        let why = format!("nothing is mounted at `{}`, and a container has no disks", paths.data().display());
        return Ok(Err(DataFact::Absent(why)));
    }
    let mut formatted = false;
    if !paths.volume_json().exists() {
        let names: Vec<String> = fs_err::read_dir(paths.data())?
            .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, _>>()?;
        if let Some(name) = names.iter().find(|name| *name != LABEL_REST) {
            return Ok(Err(DataFact::Unusable(format!("it has no label, but is not empty either (`{name}`)"))));
        }
        write_label(paths, &new_label(header)?)?;
        formatted = true;
    }
    match read_label(paths) {
        Ok(label) if label.env == header.env && label.cluster == header.cluster && label.fqdn == header.fqdn => {
            make_directories(paths)?;
        }
        // Left alone; `decide` names the difference.
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    Ok(Ok(formatted))
}

fn write_label(paths: &Paths, label: &VolumeLabel) -> anyhow::Result<()> {
    durable::replace(&paths.volume_json(), &serde_json::to_vec_pretty(label)?, 0o644)
        .context("writing the volume's label")
}

fn read_label(paths: &Paths) -> anyhow::Result<VolumeLabel> {
    let text = fs_err::read_to_string(paths.volume_json()).context("reading the volume's label")?;
    serde_json::from_str(&text).with_context(|| format!("reading `{}`", paths.volume_json().display()))
}

/// The volume's directories with their owners, made anew or given back after a user's number changed.
fn make_directories(paths: &Paths) -> anyhow::Result<()> {
    let journal_group = group_id(paths, "systemd-journal").unwrap_or(0);
    for (path, owner, group, mode) in [
        (paths.etcd_data(), ETCD_UID, ETCD_UID, 0o700),
        (paths.state_dir(), FIRSTBOOT_UID, FIRSTBOOT_UID, 0o700),
        (paths.tls_dir(), FIRSTBOOT_UID, ETCD_UID, 0o2750),
        (paths.snapshots(), FIRSTBOOT_UID, FIRSTBOOT_UID, 0o700),
        (paths.journal(), 0, journal_group, 0o2755),
    ] {
        fs_err::create_dir_all(&path)?;
        if nix::unistd::geteuid().is_root() {
            chown(&path, Some(owner), Some(group)).with_context(|| format!("giving away `{}`", path.display()))?;
        }
        // After chown, which clears setgid.
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// From the file and not by the C library: the agent is linked statically.
fn group_id(paths: &Paths, name: &str) -> Option<u32> {
    let text = fs_err::read_to_string(paths.root().join("etc/group")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split(':').nth(1)?.parse().ok())
}

/// What is mounted at the data volume's place, by its own label.
fn data_fact(paths: &Paths, formatted_now: bool) -> DataFact {
    let Some(mount) = visible_mount(paths) else {
        return DataFact::Absent(format!("nothing is mounted at `{}`", paths.data().display()));
    };
    if mount.read_only {
        return DataFact::ReadOnly(format!("`{}` on `{}`", mount.source, mount.point.display()));
    }
    match (read_label(paths), nix::sys::statvfs::statvfs(&paths.data())) {
        (Ok(label), Ok(stat)) => {
            DataFact::Mounted { label, formatted_now, free_mib: (stat.blocks_available() * stat.fragment_size()) >> 20 }
        }
        (Err(error), _) => DataFact::Unusable(format!("{error:#}")),
        (_, Err(error)) => DataFact::Unusable(format!("asking how full it is: {error}")),
    }
}

/// A volume formatted in this boot stays so for all later looks of this boot.
fn remember_formatting(paths: &Paths, data: DataFact) -> DataFact {
    let DataFact::Mounted { label, formatted_now: false, free_mib } = data else { return data };
    let earlier = fs_err::read_to_string(paths.disk_json()).ok();
    let earlier = earlier.and_then(|text| serde_json::from_str::<DiskFacts>(&text).ok());
    let formatted_now = earlier.is_some_and(|facts| {
        matches!(facts.data, DataFact::Mounted { label: then, formatted_now: true, .. } if then.instance == label.instance)
    });
    DataFact::Mounted { label, formatted_now, free_mib }
}

/// What etcd's log says. A directory that cannot be read, or a log that cannot be parsed, is never an absent one.
pub fn wal_fact(directory: &Path) -> WalFact {
    let names = match fs_err::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return WalFact::Absent,
        Err(error) => Err(error),
    };
    let mut names = match names {
        Ok(names) => names,
        Err(error) => return WalFact::Unreadable(error.to_string()),
    };
    // As etcd does (`wal.Exist`): a log is there when a file of that ending is. The oldest left has the ids like any other.
    names.retain(|path| path.extension().is_some_and(|ending| ending == "wal"));
    names.sort();
    let Some(first) = names.first() else { return WalFact::Absent };
    let read = || -> anyhow::Result<_> {
        let mut head = Vec::new();
        fs_err::File::open(first)?.take(wal::HEAD_BYTES as u64).read_to_end(&mut head)?;
        let ids = wal::parse_ids(&head).with_context(|| format!("reading `{}`", first.display()))?;
        Ok((ids, names.len() == 1 && wal::is_bare(&head)))
    };
    match read() {
        Ok(((member, raft_cluster), true)) => WalFact::Bare { member, raft_cluster },
        Ok(((member, raft_cluster), false)) => WalFact::Present { member, raft_cluster },
        Err(error) => WalFact::Unreadable(format!("{error:#}")),
    }
}
