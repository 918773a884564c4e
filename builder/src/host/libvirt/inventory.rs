//! What is on a libvirt host, and what follows from it: whose a machine is, whether it may be touched, which volumes nobody needs.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};

use super::domain_reader::Found;
use super::domain_xml::Note;
use super::volume_name;
use super::xml::{Element, XmlError};
use crate::exit::Refusal;
use crate::host::{Lack, Machine, Mark, Seen};
use crate::tool::shell_quote;

/// The storage pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// `dir`, `logical` and so on.
    pub kind: String,
    /// Its directory.
    pub path: Utf8PathBuf,
    /// Bytes that are free.
    pub available: u64,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes that a machine sees.
    pub capacity: u64,
    /// Bytes of the file.
    pub length: u64,
    /// When its bytes last changed, as libvirt writes it.
    pub mtime: String,
    /// What it lies over.
    pub backing: Option<Utf8PathBuf>,
    /// Whether libvirt could read what it lies over, if anything: a qcow2 whose header it could not read is told by what is missing.
    pub chain_known: bool,
}

/// A domain with all that decides whether it may be touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its description for the next start.
    pub found: Found,
    /// Whether it is on, in whatever state.
    pub running: bool,
    /// Whether it outlives being off.
    pub persistent: bool,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Whether its memory was saved, to be resumed at the next start.
    pub saved: bool,
    /// Its snapshots.
    pub snapshots: Vec<String>,
    /// Files of its disks, chains and all, as it runs now; as it is described if it is off.
    pub files: Vec<Utf8PathBuf>,
}

/// Everything on a host that matters to kiln.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The host's name in the profile.
    pub host: String,
    /// The pool.
    pub pool: Pool,
    /// Every volume of the pool by name; details of those that were asked for.
    pub volumes: BTreeMap<String, Option<Volume>>,
    /// Every domain.
    pub domains: Vec<Standing>,
}

impl Pool {
    /// Reads `virsh pool-dumpxml`.
    ///
    /// # Errors
    /// When it is no XML.
    pub fn parse(text: &str) -> Result<Self, XmlError> {
        let pool = Element::parse(text)?;
        Ok(Self {
            kind: pool.attribute("type").unwrap_or_default().to_owned(),
            path: pool.text_at(&["target", "path"]).unwrap_or_default().into(),
            available: pool.text_at(&["available"]).and_then(|t| t.parse().ok()).unwrap_or(0),
        })
    }
}

impl Volume {
    /// Reads `virsh vol-dumpxml`.
    ///
    /// # Errors
    /// When it is no XML.
    pub fn parse(text: &str) -> Result<Self, XmlError> {
        let volume = Element::parse(text)?;
        let bytes = |path: &[&str]| volume.text_at(path).and_then(|t| t.parse::<u64>().ok());
        let capacity = bytes(&["capacity"]).unwrap_or(0);
        let format = volume.at(&["target", "format"]).and_then(|f| f.attribute("type")).unwrap_or("raw");
        let backing = volume.text_at(&["backingStore", "path"]).filter(|p| !p.is_empty()).map(Utf8PathBuf::from);
        // Of a qcow2 it has read libvirt tells the version; it calls one it could not read a qcow2 by its first bytes alone.
        let chain_known = match format {
            "raw" | "iso" | "dir" => true,
            "qcow2" | "qed" => volume.at(&["target", "compat"]).is_some() || backing.is_some(),
            _other => backing.is_some() || volume.at(&["backingStore"]).is_none(),
        };
        Ok(Self {
            capacity,
            length: bytes(&["physical"]).unwrap_or(capacity),
            mtime: volume.text_at(&["target", "timestamps", "mtime"]).unwrap_or_default().to_owned(),
            backing,
            chain_known,
        })
    }
}

/// Rows of a table that virsh prints, below its head.
fn rows(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip_while(|l| !l.starts_with("---")).skip(1).map(str::trim).filter(|l| !l.is_empty())
}

/// Names and paths in `virsh vol-list`. A name may hold spaces; where it ends is known because the path ends with it.
pub fn parse_volume_list(table: &str) -> Vec<(String, Utf8PathBuf)> {
    let read = |row: &str| {
        let mut parts = row.match_indices(' ').map(|(i, _)| (&row[..i], row[i..].trim_start()));
        let found = parts.rfind(|(name, path)| Utf8Path::new(path).file_name() == Some(*name));
        found.map(|(name, path)| (name.to_owned(), path.into()))
    };
    rows(table).filter_map(read).collect()
}

/// The UUIDs that stand in lines of their own.
pub fn parse_uuids(text: &str) -> Vec<String> {
    let is_uuid = |line: &&str| line.len() == 36 && line.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    text.lines().map(str::trim).filter(is_uuid).map(str::to_owned).collect()
}

/// Names in `virsh pool-list --all`, and whether each is active.
pub fn parse_pool_list(table: &str) -> Vec<(String, bool)> {
    let read = |row: &str| {
        let words: Vec<&str> = row.split_whitespace().collect();
        Some(((*words.first()?).to_owned(), *words.get(1)? == "active"))
    };
    rows(table).filter_map(read).collect()
}

/// First words of the rows of a table.
pub fn parse_first_words(table: &str) -> Vec<String> {
    rows(table).filter_map(|row| row.split_whitespace().next()).map(str::to_owned).collect()
}

/// One line of `virsh dominfo` or `pool-info`.
pub fn parse_fact<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.split_once(':').filter(|(k, _)| k.trim() == key).map(|(_, value)| value.trim()))
}

impl Standing {
    /// Puts a domain together from `dumpxml --inactive`, `dumpxml`, `dominfo` and `snapshot-list`.
    ///
    /// # Errors
    /// When one of them does not read.
    pub fn parse(inactive: &str, live: &str, dominfo: &str, snapshots: &str) -> anyhow::Result<Self> {
        let fact = |key: &str| {
            parse_fact(dominfo, key).ok_or_else(|| anyhow::anyhow!("what libvirt says of a machine has no `{key}`"))
        };
        Ok(Self {
            found: Found::parse(inactive)?,
            // Paused, crashed, in shutdown: there is a process with the disks open.
            running: !fact("State")?.starts_with("shut off"),
            persistent: fact("Persistent")? == "yes",
            autostart: fact("Autostart")? == "enable",
            saved: fact("Managed save")? == "yes",
            snapshots: parse_first_words(snapshots),
            files: super::domain_reader::files(live)?,
        })
    }

    fn mark(&self) -> Option<&Mark> {
        self.found.note.as_ref().map(|n| &n.mark)
    }
}

impl Inventory {
    /// Where a volume of that name lies.
    pub fn path(&self, volume: &str) -> Utf8PathBuf {
        self.pool.path.join(volume)
    }

    /// Whether there is a volume of that name.
    pub fn has(&self, volume: &str) -> bool {
        self.volumes.contains_key(volume)
    }

    /// The details of a volume, if they were asked for.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)?.as_ref()
    }

    /// The machine of a node, if it is there and is nobody else's. Whatever is in its way, or wrong with it, is a refusal.
    ///
    /// # Errors
    /// [`Refusal`], with a remedy.
    pub fn machine(&self, machine: &Machine) -> Result<Option<&Standing>, Refusal> {
        let (mark, host) = (&machine.mark, &self.host);
        let name = volume_name::machine(mark);
        for standing in &self.domains {
            let Found { name: given, uuid, .. } = &standing.found;
            if standing.mark() == Some(mark) {
                continue;
            }
            let what = match (given == &name, uuid == &machine.uuid) {
                (false, false) => continue,
                (true, _) => {
                    format!("`{host}` has a machine called `{name}` that is not this cluster's `{}`", mark.node)
                }
                (false, true) => {
                    format!("the machine `{given}` on `{host}` has the UUID {uuid}, which is that of `{}`", mark.node)
                }
            };
            let remedy =
                format!("rename it, or remove it if nobody needs it: virsh domrename {} NEW-NAME", shell_quote(given));
            return Err(Refusal::new(what, remedy));
        }
        let ours = || self.domains.iter().filter(|d| d.mark() == Some(mark));
        let Some(standing) = ours().find(|d| d.found.uuid == machine.uuid).or_else(|| ours().next()) else {
            return Ok(None);
        };
        let mut trouble = self.trouble(standing);
        if standing.found.uuid != machine.uuid {
            trouble.push(Lack {
                what: format!(
                    "its UUID is {} and not {}: it is a copy, or was made by hand",
                    standing.found.uuid, machine.uuid
                ),
                remedy: format!("if nobody needs it: virsh undefine {}", shell_quote(&standing.found.name)),
            });
        }
        if trouble.is_empty() {
            return Ok(Some(standing));
        }
        let join = |part: fn(&Lack) -> &str| trouble.iter().map(part).collect::<Vec<_>>().join("; ");
        let what =
            format!("the machine `{}` on `{host}` must not be touched: {}", standing.found.name, join(|l| &l.what));
        Err(Refusal::new(what, join(|l| &l.remedy)))
    }

    /// Why a machine of kiln's must not be touched.
    pub fn trouble(&self, standing: &Standing) -> Vec<Lack> {
        let Some(note) = &standing.found.note else { return Vec::new() };
        let mut trouble = Vec::new();
        let mut say = |what: String, remedy: String| trouble.push(Lack { what, remedy });
        let (given, name) = (&standing.found.name, volume_name::machine(&note.mark));
        let quoted = shell_quote(given);
        let same = self.domains.iter().filter(|d| d.mark() == Some(&note.mark)).map(|d| d.found.name.as_str());
        let others: Vec<&str> = same.filter(|n| n != given).collect();
        // The copy is the one that was given another name; where neither has the node's, only a person can tell.
        let copy = if others.contains(&name.as_str()) { Some(given.as_str()) } else { None };
        let copy = copy.or_else(|| (given == &name).then(|| others.first().copied()).flatten());
        match (copy, others.first()) {
            (Some(copy), _) if copy == given => {
                say(format!("it is a copy of `{name}`"), format!("virsh undefine {quoted}"));
            }
            (Some(copy), _) => {
                say(format!("`{copy}` says it is the same node"), format!("virsh undefine {}", shell_quote(copy)));
            }
            (None, Some(other)) => {
                let remedy =
                    format!("find out which is the copy, virsh undefine that, and virsh domrename the other {name}");
                say(format!("`{other}` says it is the same node"), remedy);
            }
            (None, None) if given != &name => {
                say(format!("it was renamed from `{name}`"), format!("virsh domrename {quoted} {name}"));
            }
            (None, None) => {}
        }
        if !standing.snapshots.is_empty() {
            say(
                format!("it has snapshots: {}", standing.snapshots.join(", ")),
                format!("a member must never go back in time; remove them: virsh snapshot-delete {quoted} NAME"),
            );
        }
        if standing.saved {
            say(
                "its memory was saved, and would be resumed over other disks".to_owned(),
                format!("virsh managedsave-remove {quoted}"),
            );
        }
        if !standing.persistent {
            say(
                "it was undefined and is gone once it is off".to_owned(),
                format!("virsh dumpxml {quoted} > machine.xml && virsh define machine.xml"),
            );
        }
        for (serial, volume) in self.disks(note) {
            let path = self.path(&volume);
            if standing.found.disk(serial) != Some(&path) {
                let is = standing.found.disk(serial).map_or_else(|| "missing".to_owned(), |p| format!("`{p}`"));
                say(
                    format!("its disk `{serial}` is {is} and not `{path}`"),
                    format!("somebody changed it by hand (a snapshot does): virsh edit {quoted}"),
                );
            }
        }
        trouble
    }

    /// The disks a machine has by what is noted on it: serial and volume.
    pub fn disks(&self, note: &Note) -> [(&'static str, String); 3] {
        let mark = &note.mark;
        [
            ("kiln-root", volume_name::root(mark, &note.root)),
            ("kiln-data", volume_name::data(mark)),
            ("kiln-seed", volume_name::seed(mark, &note.seed)),
        ]
    }

    /// A machine of kiln's as the rest of kiln sees it.
    pub fn seen(&self, standing: &Standing) -> Option<Seen> {
        let found = &standing.found;
        let note = found.note.as_ref()?;
        let [root, data, seed] = self.disks(note).map(|(serial, volume)| {
            (self.has(&volume) && found.disk(serial) == Some(&self.path(&volume))).then_some(volume)
        });
        let previous = note.previous.filter(|p| self.has(&volume_name::root(&note.mark, p)));
        Some(Seen {
            mark: note.mark.clone(),
            handle: found.name.clone(),
            uuid: found.uuid.clone(),
            running: standing.running,
            root: root.map(|_| note.root),
            previous,
            data_bytes: data.and_then(|d| self.volume(&d)).map(|v| v.capacity),
            seed: seed.map(|_| note.seed),
            memory_mib: found.memory_mib,
            vcpus: found.vcpus,
            mac: found.mac,
            bridge: found.bridge.clone(),
            trouble: self.trouble(standing),
        })
    }

    /// Roots and seeds of a node that nothing needs any more, given what is noted on its machine now: what calls that were cut off left.
    pub fn strays(&self, mark: &Mark, note: Option<&Note>) -> Vec<String> {
        let roots = note.into_iter().flat_map(|n| [Some(n.root), n.previous]).flatten();
        let needed: Vec<String> = roots
            .map(|root| volume_name::root(mark, &root))
            .chain(note.map(|n| volume_name::seed(mark, &n.seed)))
            .collect();
        let of_node = |name: &&String| volume_name::is_root_of(mark, name) || volume_name::is_seed_of(mark, name);
        self.volumes.keys().filter(of_node).filter(|name| !needed.contains(name)).cloned().collect()
    }

    /// Whose disk a volume is, apart from the machine `own`, of which only what it has open now counts: its description is about to change.
    pub fn user_of(&self, volume: &str, own: Option<&Mark>) -> Option<&str> {
        let path = self.path(volume);
        let over = |file: &Utf8PathBuf| {
            // What a file lies over is in the chain of a domain that runs, and else in the file alone.
            let below = file.file_name().and_then(|name| self.volume(name)).and_then(|v| v.backing.as_ref());
            file == &path || below == Some(&path)
        };
        let uses = |standing: &&Standing| {
            let open = standing.files.iter().any(over);
            if own.is_some() && standing.mark() == own {
                return standing.running && open;
            }
            open || standing.found.disks.iter().any(|(_, file)| over(file))
        };
        self.domains.iter().find(uses).map(|d| d.found.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::libvirt::domain_xml::{render, tests::hosted};

    fn standing() -> Standing {
        let domain = hosted();
        let dominfo = "State:          shut off\nPersistent:     yes\nAutostart:      disable\nManaged save:   no\n";
        let head = " Name   Creation Time   State\n-------------------------------\n";
        Standing::parse(&render(&domain), &render(&domain), dominfo, head).unwrap()
    }

    fn inventory(domains: Vec<Standing>) -> Inventory {
        let note = domains[0].found.note.clone().unwrap();
        let pool = Pool { path: "/var/lib/libvirt/images".into(), ..Pool::default() };
        let mut inventory = Inventory { host: "pve1".into(), pool, volumes: BTreeMap::new(), domains };
        inventory.volumes = inventory.disks(&note).map(|(_, volume)| (volume, None)).into();
        inventory
    }

    fn machine() -> Machine {
        let domain = hosted();
        Machine {
            mark: domain.note.unwrap().mark,
            uuid: domain.uuid,
            memory_mib: domain.memory_mib,
            vcpus: domain.vcpus,
            data_gib: 1,
            bridge: domain.bridge,
            mtu: domain.mtu,
            mac: domain.mac,
        }
    }

    #[test]
    fn reads_the_tables_that_virsh_prints() {
        let head = " Name             Path\n----------------------------------------------------\n";
        let list = format!("{head} a b.qcow2        /p/a b.qcow2\n kiln-1.qcow2     /p/kiln-1.qcow2\n x   /p q/x\n\n");
        let names: Vec<_> = parse_volume_list(&list).into_iter().map(|(n, p)| format!("{n} in {p}")).collect();
        assert_eq!(names, ["a b.qcow2 in /p/a b.qcow2", "kiln-1.qcow2 in /p/kiln-1.qcow2", "x in /p q/x"]);
        let pools = " Name      State      Autostart\n---------------------------\n default   active     yes\n iso       inactive   no\n";
        assert_eq!(parse_pool_list(pools), [("default".into(), true), ("iso".into(), false)]);
        let domains = " Id   Name   State\n--------------------\n -    foo    shut off\n\n2ed6657d-e927-568b-95e1-2665a8aea6a2\n\n";
        assert_eq!(parse_uuids(domains), ["2ed6657d-e927-568b-95e1-2665a8aea6a2"]);
    }

    #[test]
    fn a_sound_machine_is_seen_whole_and_in_no_trouble() {
        let inventory = inventory(vec![standing()]);
        let found = inventory.machine(&machine()).unwrap().unwrap();
        let seen = inventory.seen(found).unwrap();
        let note = found.found.note.clone().unwrap();
        assert_eq!(
            (seen.root, seen.previous, seen.seed, seen.running),
            (Some(note.root), None, Some(note.seed), false)
        );
        assert_eq!(seen.trouble, []);
        assert_eq!(inventory.strays(&note.mark, Some(&note)), Vec::<String>::new());
    }

    #[test]
    fn of_two_machines_with_one_mark_the_one_with_another_name_is_the_copy() {
        let mut copy = standing();
        copy.found.name = "aaa".into();
        copy.found.uuid = "11111111-1111-4111-8111-111111111111".into();
        let both = inventory(vec![copy.clone(), standing()]);
        let remedies = |inventory: &Inventory, i: usize| {
            let trouble = inventory.trouble(&inventory.domains[i]);
            trouble.into_iter().map(|lack| lack.remedy).collect::<Vec<_>>()
        };
        assert_eq!(remedies(&both, 0), ["virsh undefine aaa"]);
        assert_eq!(remedies(&both, 1), ["virsh undefine aaa"]);
        let refused = both.machine(&machine()).unwrap_err();
        assert_eq!(refused.remedy, "virsh undefine aaa");
        // Neither has the node's name: nobody is advised away.
        let mut renamed = standing();
        renamed.found.name = "bbb".into();
        let neither = inventory(vec![copy, renamed]);
        assert!(remedies(&neither, 0)[0].starts_with("find out which is the copy"));
        assert!(remedies(&neither, 1)[0].starts_with("find out which is the copy"));
    }

    #[test]
    fn whatever_somebody_else_has_open_is_used_and_our_own_only_while_it_runs() {
        let mut stranger = standing();
        stranger.found.note = None;
        stranger.found.name = "theirs".into();
        let own = machine().mark;
        let mut with = inventory(vec![standing(), stranger]);
        let root = volume_name::root(&own, &with.domains[0].found.note.as_ref().unwrap().root);
        assert_eq!(with.user_of(&root, Some(&own)), Some("theirs"));
        with.domains.pop();
        assert_eq!(with.user_of(&root, Some(&own)), None);
        with.domains[0].running = true;
        assert_eq!(with.user_of(&root, Some(&own)), Some("k8s0.k8s0etcd1"));
        // What another volume of the node lies over counts too.
        let base = "kiln-e3b0c44298fc.qcow2";
        let over = Volume { backing: Some(with.path(base)), ..Volume::default() };
        with.volumes.insert(root, Some(over));
        assert_eq!(with.user_of(base, None), Some("k8s0.k8s0etcd1"));
    }

    #[test]
    fn a_qcow2_that_libvirt_could_not_read_has_a_chain_that_nobody_knows() {
        let volume =
            |inside: &str| Volume::parse(&format!("<volume><capacity>20</capacity>{inside}</volume>")).unwrap();
        let header = "<target><format type='qcow2'/><compat>1.1</compat></target>";
        assert!(volume(header).chain_known && volume("<target><format type='raw'/></target>").chain_known);
        assert!(!volume("<target><format type='qcow2'/></target>").chain_known);
        let over = volume("<target><format type='vmdk'/></target><backingStore><path>/p/x</path></backingStore>");
        assert_eq!((over.chain_known, over.backing), (true, Some("/p/x".into())));
    }
}
