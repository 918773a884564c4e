//! Wrong profiles, and every problem each of them has: line, field and fact.

use super::*;

/// Sound; each case breaks it.
const SOUND: &str = "\
schema = 1
name = 'p'
image = 'ubuntu-24.04'
domain = 'kloud.lan'
[network]
bridge = 'br0'
subnet = '10.0.0.0/24'
gateway = '10.0.0.1'
dns_servers = ['10.0.0.2']
[etcd]
source = [{ kind = 'release', version = '3.6.14' }]
[formation]
window_hours = 72
[hosts.pve1]
kind = 'libvirt'
[[node]]
name = 'a'
host = 'pve1'
address = '10.0.0.11'
memory_mib = 1024
vcpus = 1
data_gib = 1
[[node]]
name = 'b'
host = 'pve1'
address = '10.0.0.12'
memory_mib = 1024
vcpus = 1
data_gib = 1
[[node]]
name = 'c'
host = 'pve1'
address = '10.0.0.13'
memory_mib = 1024
vcpus = 1
data_gib = 1
";

/// Texts of [`SOUND`] with what replaces them.
type Changes = &'static [(&'static str, &'static str)];
type Found = (usize, &'static str, &'static str);

fn found(text: &str) -> Vec<(usize, String, String)> {
    let problems = Profile::parse(Utf8Path::new("p.toml"), text).err().unwrap_or_default();
    problems.0.into_iter().map(|p| (p.line, p.field, p.what)).collect()
}

fn changed(changes: &[(&str, &str)]) -> String {
    let mut text = SOUND.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "the sound profile has no `{from}`");
        text = text.replacen(from, to, 1);
    }
    text
}

#[test]
fn the_sound_profile_is_sound() {
    let profile = Profile::parse(Utf8Path::new("p.toml"), SOUND).unwrap();
    assert_eq!(profile.warnings, []);
    assert_eq!(profile.formation, Formation { window_hours: 72, founder: Fqdn::parse("a.kloud.lan").unwrap() });
}

#[test]
fn finds_every_problem_of_every_wrong_profile() {
    let cases: &[(Changes, &[Found])] = &[
        (&[("schema = 1", "schema = 2")], &[(1, "schema", "schema 2 is not one this kiln knows")]),
        (&[("name = 'p'", "name = 'P'")], &[(2, "name", "`P` is not a host name's label")]),
        (
            &[("kloud.lan", "kloud.local")],
            &[(
                4,
                "domain",
                "`kloud.local` is under `.local`, which belongs to multicast DNS; use a domain that a DNS server serves",
            )],
        ),
        (&[("domain = 'kloud.lan'", "")], &[(1, "domain", "this field is missing")]),
        (&[("ubuntu-24.04", "../x")], &[(3, "image", "`../x` is not the name of an image definition")]),
        (
            &[("br0", "a-name-too-long-for-linux")],
            &[(6, "network.bridge", "`a-name-too-long-for-linux` is not the name of a network interface")],
        ),
        (
            &[("10.0.0.0/24", "10.0.0.5/24")],
            &[(7, "network.subnet", "`10.0.0.5/24` has host bits set; the network is `10.0.0.0/24`")],
        ),
        (&[("10.0.0.1'", "10.1.0.1'")], &[(8, "network.gateway", "`10.1.0.1` is not in the subnet")]),
        // Names, addresses and Ethernet addresses twice.
        (
            &[("'b'", "'a'"), ("10.0.0.12", "10.0.0.11")],
            &[
                (24, "node[2].name", "the name `a` is already that of the node in line 17"),
                (26, "node[2].address", "the address `10.0.0.11` is already that of the node in line 19"),
            ],
        ),
        (
            &[("'a'", "'a'\nmac = '52:54:00:00:00:01'"), ("'b'", "'b'\nmac = '52:54:00:00:00:01'")],
            &[(26, "node[2].mac", "the Ethernet address `52:54:00:00:00:01` is already that of the node in line 18")],
        ),
        // Addresses that a node cannot have.
        (
            &[("10.0.0.11", "10.0.0.0"), ("10.0.0.12", "10.0.0.255"), ("10.0.0.13", "10.0.1.13")],
            &[
                (19, "node[1].address", "`10.0.0.0` is the network itself"),
                (26, "node[2].address", "`10.0.0.255` is the subnet's broadcast address"),
                (33, "node[3].address", "`10.0.1.13` is not in the subnet"),
            ],
        ),
        (
            &[("10.0.0.11", "10.0.0.1"), ("10.0.0.12", "10.0.0.2"), ("10.0.0.13", "fd00::1")],
            &[
                (19, "node[1].address", "`10.0.0.1` is the gateway"),
                (26, "node[2].address", "`10.0.0.2` is a DNS server"),
                (33, "node[3].address", "`fd00::1` is not in the subnet"),
            ],
        ),
        (&[("host = 'pve1'", "host = 'pve2'")], &[(18, "node[1].host", "there is no host `pve2`")]),
        (&[("libvirt", "vmware")], &[(15, "hosts.pve1.kind", "`vmware` is not known here")]),
        // etcd.
        (
            &[("3.6.14", "3.5.30")],
            &[(
                11,
                "etcd.source[1]",
                "etcd 3.5.30: the 3.5 line adds one learner at a time and nears the end of its support (etcd-io/website:content/en/docs/v3.6/op-guide/versioning.md)",
            )],
        ),
        (
            &[(
                "3.6.14' }]",
                "3.5.30' }]\naccept_hazards = [{ hazard = 'etcd-3.5', reason = 'ok' }, { hazard = 'x' }]",
            )],
            &[
                (12, "etcd.accept_hazards[1].reason", "this is no reason"),
                (12, "etcd.accept_hazards[2].hazard", "`x` is not known here"),
                (12, "etcd.accept_hazards[2].reason", "this field is missing"),
            ],
        ),
        (&[("3.6.14", "3.4")], &[(11, "etcd.source[1].version", "kiln does not know the flags of etcd 3.4")]),
        (
            &[("'release', version = '3.6.14'", "'packages', version = 'latest'")],
            &[(
                11,
                "etcd.source[1].version",
                "`latest` leaves the choice to the lock, and only upstream has a list to choose from",
            )],
        ),
        (
            &[(
                "'3.6.14' }]",
                "'3.6', sha256 = 'ffe840ff9295808e88cce2794a18a5ac87f12a5203c8314d0bf6aa119b41bac5', mirror = 'm' }]",
            )],
            &[
                (11, "etcd.source[1].mirror", "`m` is not a URL"),
                (11, "etcd.source[1].version", "a sum belongs to one version, and `3.6` is not one"),
            ],
        ),
        (
            &[("3.6.14", "3.5")],
            &[(
                11,
                "etcd.source[1]",
                "etcd 3.5: the 3.5 line adds one learner at a time and nears the end of its support (etcd-io/website:content/en/docs/v3.6/op-guide/versioning.md)",
            )],
        ),
        (&[("3.6.14", "3.4.30")], &[(11, "etcd.source[1].version", "kiln does not know the flags of etcd 3.4")]),
        (
            &[("'release'", "'file'")],
            &[
                (11, "etcd.source[1].path", "this field is missing"),
                (11, "etcd.source[1].sha256", "this field is missing"),
            ],
        ),
        (
            &[("[formation]", "heartbeat_ms = 300\nelection_ms = 1000\nquota_mib = 9000\n[formation]")],
            &[
                (13, "etcd.election_ms", "1000 ms is less than five heartbeats of 300 ms"),
                (14, "etcd.quota_mib", "9000 is out of range"),
            ],
        ),
        // Hosts, and the tunnel between them.
        (
            &[("'libvirt'", "'libvirt'\npool = 'a b'\naccelerator = 'hvf'\ncache = 'all'\naddress = 'x'")],
            &[
                (16, "hosts.pve1.pool", "`a b` is not the name of a storage pool"),
                (17, "hosts.pve1.accelerator", "`hvf` is not known here"),
                (18, "hosts.pve1.cache", "`all` is not known here"),
                (19, "hosts.pve1.address", "invalid IP address syntax"),
            ],
        ),
        (&[("'libvirt'", "'lab'\npool = 'p'")], &[(16, "hosts.pve1.pool", "unknown field")]),
        (
            &[("bridge = 'br0'", "bridge = 'br0'\nvxlan = { id = 103 }\nmtu = 1451")],
            &[
                (8, "network.mtu", "1451 is more than the 1450 bytes that the tunnel leaves"),
                (16, "hosts.pve1", "the tunnel of `network.vxlan` has no end here"),
            ],
        ),
        (
            &[
                ("bridge = 'br0'", "bridge = 'br0'\nvxlan = { id = 0, underlay_mtu = 1000, port = 1 }"),
                ("'libvirt'", "'libvirt'\naddress = '::1'"),
            ],
            &[
                (7, "network.vxlan.id", "0 is out of range"),
                (7, "network.vxlan.port", "unknown field"),
                (7, "network.vxlan.underlay_mtu", "1000 is out of range"),
            ],
        ),
        (
            &[
                ("bridge = 'br0'", "bridge = 'br0'\nvxlan = { id = 103 }"),
                ("'libvirt'", "'libvirt'\naddress = '::1'\n[hosts.pve2]\nkind = 'libvirt'\naddress = '10.1.0.2'"),
            ],
            &[(15, "hosts.pve1", "a tunnel from `::1` has no way to an IPv4 address")],
        ),
        // Formation.
        (
            &[("window_hours = 72", "window_hours = 0\nfounder = 'z'")],
            &[(13, "formation.window_hours", "0 is out of range"), (14, "formation.founder", "there is no node `z`")],
        ),
        // Unknown fields and wrong kinds, all at once.
        (
            &[
                ("bridge = 'br0'", "bridge = 7\nbrigde = 'br0'"),
                ("vcpus = 1", "vcpus = 'one'\nmac = 'x'"),
                ("data_gib = 1", "data-gib = 1"),
            ],
            &[
                (6, "network.bridge", "this is a whole number"),
                (7, "network.brigde", "unknown field"),
                (17, "node[1].data_gib", "this field is missing"),
                (22, "node[1].vcpus", "this is a string"),
                (23, "node[1].mac", "`x` is not an Ethernet address such as `52:54:00:12:34:56`"),
                (24, "node[1].data-gib", "unknown field"),
            ],
        ),
    ];
    for (changes, expected) in cases {
        let mut expected: Vec<_> = expected.iter().map(|(l, f, w)| (*l, (*f).to_owned(), (*w).to_owned())).collect();
        expected.sort();
        assert_eq!(found(&changed(changes)), expected, "{changes:?}");
    }
    assert_eq!(
        found("schema = 1\nname = "),
        [(2, String::new(), "string values must be quoted, expected literal string".to_owned())]
    );
}

#[test]
fn d10_two_members_are_refused_and_other_even_numbers_said_aloud() {
    let [head, a, b, _] = SOUND.split("[[node]]").collect::<Vec<_>>().try_into().unwrap();
    let two = format!("{head}[[node]]{a}[[node]]{b}");
    let fact = "2 members survive the loss of 0, no more than 1 do";
    assert_eq!(found(&two), [(16, "node".to_owned(), fact.to_owned())]);
    let allowed = two.replace("window_hours = 72", "allow_even = true");
    assert_eq!(Profile::parse(Utf8Path::new("p.toml"), &allowed).unwrap().warnings, []);

    let d = b.replace("'b'", "'d'").replace("10.0.0.12", "10.0.0.14");
    let four = format!("{SOUND}[[node]]{d}");
    let warnings = Profile::parse(Utf8Path::new("p.toml"), &four).unwrap().warnings;
    let facts: Vec<&str> = warnings.iter().map(|w| w.what.as_str()).collect();
    assert_eq!(facts, ["4 members survive the loss of 1, no more than 3 do"]);
    let none = head.replace("schema = 1", "schema = 1\nnode = []");
    assert_eq!(found(&none), [(2, "node".to_owned(), "a cluster has at least one node".to_owned())]);
}

#[test]
fn a_tunnel_leaves_less_room_than_what_carries_it() {
    for (address, mtu) in [("192.0.2.1", 8950), ("2001:db8::1", 8930)] {
        let text = changed(&[
            ("bridge = 'br0'", "bridge = 'br0'\nvxlan = { id = 103, underlay_mtu = 9000 }"),
            ("'libvirt'", &format!("'libvirt'\npool = 'images'\naddress = '{address}'")),
        ]);
        let profile = Profile::parse(Utf8Path::new("p.toml"), &text).unwrap();
        assert_eq!(profile.network.mtu, Some(mtu));
        let settings = Libvirt { pool: "images".into(), accelerator: None, cache: Cache::None };
        assert_eq!(profile.hosts[0].kind, HostKind::Libvirt(settings));
    }
}

#[test]
fn ipv6_alone_is_enough() {
    let text = changed(&[
        ("10.0.0.0/24", "fd00:103::/64"),
        ("gateway = '10.0.0.1'", ""),
        ("'10.0.0.2'", ""),
        ("10.0.0.11", "fd00:103::11"),
        ("10.0.0.12", "fd00:103::12"),
        ("10.0.0.13", "fd00:103::13"),
    ]);
    let profile = Profile::parse(Utf8Path::new("p.toml"), &text).unwrap();
    assert_eq!(profile.members()[0].addresses, ["fd00:103::11".parse::<IpAddr>().unwrap()]);
}

proptest::proptest! {
    /// Whatever is done to a line, the answer is a profile or a list of problems within the file.
    #[test]
    fn no_change_of_a_line_is_too_much(line in 0..40usize, other in 0..40usize, value in "(= ?)?('x'|7|-1|\\[\\]|\\{\\}|true|\\[\\[|\u{fc})?") {
        let mut lines: Vec<&str> = SOUND.lines().collect();
        let (count, key) = (lines.len(), SOUND.lines().nth(line).unwrap_or_default());
        let key = key.split_once('=').map_or(key, |(key, _)| key);
        let bent = format!("{key}{value}");
        lines[line % count] = &bent;
        lines.swap(line % count, other % count);
        if let Err(problems) = Profile::parse(Utf8Path::new("p.toml"), &lines.join("\n")) {
            assert!(!problems.0.is_empty());
            assert!(problems.0.iter().all(|p| (1..=count).contains(&p.line)), "{problems}");
        }
    }
}

#[test]
fn a_release_may_leave_its_version_to_the_lock() {
    for (text, wanted, least) in [
        ("latest", WantedVersion::Latest, "3.5.0"),
        ("3.6", WantedVersion::Line(3, 6), "3.6.0"),
        ("3.7", WantedVersion::Line(3, 7), "3.7.0"),
    ] {
        let mirrored = format!("{text}', mirror = 'http://m.test/etcd");
        let text = SOUND.replacen("3.6.14", &mirrored, 1);
        let profile = Profile::parse(Utf8Path::new("p.toml"), &text).unwrap();
        let source = &profile.etcd.sources[0];
        assert_eq!((source.version, profile.min_etcd().to_string().as_str()), (wanted, least));
        let origin = EtcdOrigin::Release { mirror: Some("http://m.test/etcd".into()), sha256: None };
        assert_eq!(source.origin, origin);
        assert_eq!(source.version.to_string().parse(), Ok(wanted));
    }
}

/// A sound host of the Proxmox kind.
const PROXMOX: &str = "\
kind = 'proxmox'
endpoint = 'https://pve1.kloud.lan:8006'
token_file = 'pve1.token'
ca_file = 'pve-root-ca.pem'
image_storage = 'kiln-img'
disk_storage = 'local-lvm'
pool = 'kiln'
first_vmid = 4100";

#[test]
fn a_proxmox_host_says_how_it_is_reached_and_known() {
    let profile = Profile::parse(Utf8Path::new("p.toml"), &changed(&[("kind = 'libvirt'", PROXMOX)])).unwrap();
    let HostKind::Proxmox(settings) = &profile.hosts[0].kind else { panic!("another kind") };
    assert_eq!((settings.node.as_str(), settings.first_vmid), ("pve1", Some(4100)));
    assert_eq!(settings.trust, ProxmoxTrust::Authority("pve-root-ca.pem".into()));
    let pinned = format!("fingerprint = '{}'\nnode = 'n1'", ["AB"; 32].join(":"));
    let other = PROXMOX.replace("ca_file = 'pve-root-ca.pem'", &pinned);
    let profile = Profile::parse(Utf8Path::new("p.toml"), &changed(&[("kind = 'libvirt'", &other)])).unwrap();
    let HostKind::Proxmox(settings) = &profile.hosts[0].kind else { panic!("another kind") };
    assert_eq!((&settings.trust, settings.node.as_str()), (&ProxmoxTrust::Fingerprint(Sha256Digest([0xab; 32])), "n1"));
}

#[test]
fn finds_every_problem_of_a_proxmox_host() {
    let with = |text: &str| found(&changed(&[("kind = 'libvirt'", text)]));
    let missing = with("kind = 'proxmox'");
    let fields: Vec<&str> = missing.iter().map(|(_, field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "hosts.pve1",
            "hosts.pve1.disk_storage",
            "hosts.pve1.endpoint",
            "hosts.pve1.image_storage",
            "hosts.pve1.pool",
            "hosts.pve1.token_file"
        ]
    );
    assert!(missing.iter().all(|(line, _, _)| *line == 14));
    let wrong = [
        (
            "'https://pve1.kloud.lan:8006'",
            "'http://pve1:8006'",
            "endpoint",
            "the API is reached by https, at the root of a server",
        ),
        (
            "'https://pve1.kloud.lan:8006'",
            "'https://pve1:8006/api2'",
            "endpoint",
            "the API is reached by https, at the root of a server",
        ),
        ("ca_file = 'pve-root-ca.pem'", "fingerprint = 'AB:CD'", "fingerprint", "`AB:CD` is not a SHA-256 fingerprint"),
        ("'local-lvm'", "'local lvm'", "disk_storage", "`local lvm` is not the name of a storage"),
        ("4100", "99", "first_vmid", "99 is out of range"),
        ("'pve1.token'", "''", "token_file", "this is empty"),
        ("pool = 'kiln'", "pool = 'kiln'\ntoken = 'a'", "token", "unknown field"),
    ];
    for (from, to, field, what) in wrong {
        let told: Vec<(String, String)> =
            with(&PROXMOX.replacen(from, to, 1)).into_iter().map(|(_, f, w)| (f, w)).collect();
        assert_eq!(told, [(format!("hosts.pve1.{field}"), what.to_owned())]);
    }
    let both = with(&format!("{PROXMOX}\nfingerprint = '{}'", "ab".repeat(32)));
    assert_eq!(both[0].2, "the certificate is to be known in two ways");
    // What is another kind's is unknown here.
    assert_eq!(with("kind = 'libvirt'\nfirst_vmid = 100")[0].2, "unknown field");
}
