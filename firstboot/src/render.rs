//! etcd's command line, per minor line of etcd. Pure: same launch, same text.
//!
//! Flags rather than a configuration file: etcd's file takes durations as integer nanoseconds and ignores nothing it does not
//! know, and a command line can be read in `systemctl status`.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::charter::Charter;
use crate::cluster::{CompactionMode, EtcdSettings};
use crate::name::Fqdn;
use crate::paths::{CLIENT_PORT, METRICS_PORT, PEER_PORT, Paths};
use crate::state::InitialMember;
use crate::version::EtcdLine;

/// The variable in [`Paths::etcd_args`] that `etcd.service` splits into arguments at blanks.
pub const ARGS_VARIABLE: &str = "KILN_ETCD_ARGS";

/// Everything an etcd command line is made of.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Which flags exist.
    pub line: EtcdLine,
    /// What the profile chose.
    pub settings: &'a EtcdSettings,
    /// Where things are.
    pub paths: &'a Paths,
    /// Who may be a peer.
    pub charter: &'a Charter,
    /// This node.
    pub fqdn: &'a Fqdn,
    /// How it starts.
    pub start: Start<'a>,
}

/// How etcd starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// On an empty log, as the one voter of a new cluster.
    Founding {
        /// [`crate::raft_id::cluster_token`] of the lineage.
        token: &'a str,
    },
    /// On an empty log, as a learner of a running cluster.
    Existing {
        /// [`crate::raft_id::cluster_token`] of the lineage.
        token: &'a str,
        /// The live member list, this node included.
        members: &'a [InitialMember],
    },
    /// On its own log, which makes etcd ignore every `initial-*` flag.
    Restart {
        /// This is the founder, and it has not seen the cluster activated: no client has written anything yet.
        forming: bool,
    },
}

/// An argument that systemd would split or rewrite.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the argument `{0}` of etcd has a character that an environment file cannot carry")]
pub struct ArgumentError(pub String);

/// etcd's arguments, without the program.
pub fn arguments(launch: &Launch<'_>) -> Vec<String> {
    let Launch { settings, paths, charter, fqdn, .. } = launch;
    let any = any_address(charter);
    let allowed: Vec<&str> = charter.members.iter().map(|m| m.fqdn.as_str()).collect();
    let mut args = vec![
        flag("name", fqdn.member_name()),
        flag("data-dir", paths.etcd_data().display()),
        flag("listen-peer-urls", format_args!("https://{any}:{PEER_PORT}")),
        flag("initial-advertise-peer-urls", fqdn.peer_url()),
        // The unix socket is the agent's way in: no client certificate with rights in etcd lies on a node.
        flag(
            "listen-client-urls",
            format_args!("https://{any}:{CLIENT_PORT},unix://{}", paths.etcd_socket().display()),
        ),
        flag("advertise-client-urls", fqdn.client_url()),
        flag("listen-metrics-urls", format_args!("http://{any}:{METRICS_PORT}")),
        flag("enable-grpc-gateway", false),
        flag("cert-file", paths.leaf_cert().display()),
        flag("key-file", paths.leaf_key().display()),
        flag("client-cert-auth", true),
        flag("trusted-ca-file", paths.client_roots().display()),
        flag("client-crl-file", paths.client_revoked().display()),
        flag("peer-cert-file", paths.leaf_cert().display()),
        flag("peer-key-file", paths.leaf_key().display()),
        flag("peer-client-cert-auth", true),
        flag("peer-trusted-ca-file", paths.peer_roots().display()),
        flag("peer-crl-file", paths.peer_revoked().display()),
        // A leaf without any SAN passes every name constraint of an issuer; the names allowed here are what closes that.
        flag("peer-cert-allowed-hostname", allowed.join(",")),
        flag("tls-min-version", "TLS1.3"),
        flag("strict-reconfig-check", strict_reconfig_check(launch)),
        flag("quota-backend-bytes", settings.quota_mib.saturating_mul(1 << 20)),
        flag("auto-compaction-mode", mode(settings)),
        flag("auto-compaction-retention", retention(settings)),
        flag("heartbeat-interval", settings.heartbeat_ms),
        flag("election-timeout", settings.election_ms),
        flag("logger", "zap"),
        flag("log-level", "info"),
        flag("log-outputs", "stderr"),
    ];
    args.extend(corruption_checks(launch.line));
    args.extend(learners(launch.line, charter));
    args.extend(initial(launch));
    args
}

/// The environment file that hands `arguments` to `etcd.service`.
///
/// # Errors
/// An argument with a blank, a quote, a backslash, a dollar or a control character; none that [`arguments`] makes has one unless
/// the root directory does.
pub fn environment_file(arguments: &[String]) -> Result<String, ArgumentError> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | '$' | '`');
    if let Some(bad) = arguments.iter().find(|argument| argument.is_empty() || argument.contains(odd)) {
        return Err(ArgumentError(bad.clone()));
    }
    Ok(format!("{ARGS_VARIABLE}=\"{}\"\n", arguments.join(" ")))
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

/// All interfaces. `[::]` takes IPv4 too, but only where the kernel has IPv6, so it is used only where the charter needs it.
fn any_address(charter: &Charter) -> &'static str {
    let v6 = charter.members.iter().flat_map(|m| &m.addresses).any(std::net::IpAddr::is_ipv6);
    if v6 { "[::]" } else { "0.0.0.0" }
}

/// The check is off in one case only: etcd 3.5 while its founder forms. 3.5 takes one learner at a time and would wait 5 s
/// (`HealthInterval`) between two additions; before activation no client has written anything that a bad change could lose.
fn strict_reconfig_check(launch: &Launch<'_>) -> bool {
    let forming = match launch.start {
        Start::Founding { .. } => true,
        Start::Existing { .. } => false,
        Start::Restart { forming } => forming,
    };
    match launch.line {
        EtcdLine::V3_5 => !forming,
        EtcdLine::V3_6 | EtcdLine::V3_7 => true,
    }
}

fn mode(settings: &EtcdSettings) -> &'static str {
    match settings.auto_compaction_mode {
        CompactionMode::Periodic => "periodic",
        CompactionMode::Revision => "revision",
    }
}

fn retention(settings: &EtcdSettings) -> String {
    match settings.auto_compaction_mode {
        CompactionMode::Periodic => format!("{}h", settings.auto_compaction_retention),
        CompactionMode::Revision => settings.auto_compaction_retention.to_string(),
    }
}

/// Both checks: at start against the peers, and at each compaction. The second runs only because compaction is never off.
fn corruption_checks(line: EtcdLine) -> Vec<String> {
    match line {
        EtcdLine::V3_5 => vec![
            flag("experimental-initial-corrupt-check", true),
            flag("experimental-compact-hash-check-enabled", true),
        ],
        EtcdLine::V3_6 | EtcdLine::V3_7 => {
            vec![flag("feature-gates", "InitialCorruptCheck=true,CompactHashCheck=true")]
        }
    }
}

/// Room for all other members as learners at once, so that a formation is not a row of waits. The same on every member, since
/// each one checks it when a change is applied. 3.5 has one place and no such flag.
fn learners(line: EtcdLine, charter: &Charter) -> Vec<String> {
    match line {
        EtcdLine::V3_5 => Vec::new(),
        EtcdLine::V3_6 | EtcdLine::V3_7 => {
            vec![flag("max-learners", charter.members.len().saturating_sub(1).max(1))]
        }
    }
}

fn initial(launch: &Launch<'_>) -> Vec<String> {
    let (state, token, members) = match launch.start {
        Start::Restart { .. } => return Vec::new(),
        Start::Founding { token } => {
            ("new", token, format!("{}={}", launch.fqdn.member_name(), launch.fqdn.peer_url()))
        }
        Start::Existing { token, members } => {
            let list: Vec<String> = members.iter().map(|m| format!("{}={}", m.name, m.peer_url)).collect();
            ("existing", token, list.join(","))
        }
    };
    vec![flag("initial-cluster-state", state), flag("initial-cluster-token", token), flag("initial-cluster", members)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{charter, fqdn};
    use crate::system::Program;

    const TOKEN: &str = "f89c7ca4e5108f5dd208e6453d053f35bc8dafee6c0d4d2c56223481d480cac9";

    fn rendered(line: EtcdLine, start: Start<'_>) -> String {
        let (settings, paths, charter, fqdn) = (EtcdSettings::default(), Paths::new("/"), charter(3), fqdn(1));
        let launch = Launch { line, settings: &settings, paths: &paths, charter: &charter, fqdn: &fqdn, start };
        arguments(&launch).join("\n") + "\n"
    }

    fn members() -> Vec<InitialMember> {
        [1, 2].map(|n| InitialMember { name: fqdn(n).member_name().into(), peer_url: fqdn(n).peer_url() }).into()
    }

    #[test]
    fn renders_each_line_as_agreed() {
        let founding = Start::Founding { token: TOKEN };
        let members = members();
        let existing = Start::Existing { token: TOKEN, members: &members };
        let restart = Start::Restart { forming: false };
        for (line, start, golden) in [
            (EtcdLine::V3_5, founding, include_str!("../fixtures/render/3.5-founding.txt")),
            (EtcdLine::V3_5, existing, include_str!("../fixtures/render/3.5-existing.txt")),
            (EtcdLine::V3_5, restart, include_str!("../fixtures/render/3.5-restart.txt")),
            (EtcdLine::V3_6, founding, include_str!("../fixtures/render/3.6-founding.txt")),
            (EtcdLine::V3_6, existing, include_str!("../fixtures/render/3.6-existing.txt")),
            (EtcdLine::V3_7, restart, include_str!("../fixtures/render/3.7-restart.txt")),
        ] {
            assert_eq!(rendered(line, start), golden, "{line:?} {start:?}");
        }
    }

    #[test]
    fn strict_reconfiguration_is_off_only_while_a_3_5_founder_forms() {
        let off = |line, start: Start<'_>| rendered(line, start).contains("--strict-reconfig-check=false");
        let members = members();
        let founding = Start::Founding { token: TOKEN };
        assert!(off(EtcdLine::V3_5, founding) && off(EtcdLine::V3_5, Start::Restart { forming: true }));
        assert!(!off(EtcdLine::V3_5, Start::Restart { forming: false }));
        assert!(!off(EtcdLine::V3_5, Start::Existing { token: TOKEN, members: &members }));
        for line in [EtcdLine::V3_6, EtcdLine::V3_7] {
            assert!(!off(line, founding) && !off(line, Start::Restart { forming: true }));
        }
    }

    #[test]
    fn listens_on_ipv6_where_the_charter_has_it() {
        let mut charter = charter(1);
        assert_eq!(any_address(&charter), "0.0.0.0");
        charter.members[0].addresses.push("fd00::1".parse().unwrap());
        assert_eq!(any_address(&charter), "[::]");
    }

    #[test]
    fn an_environment_file_carries_no_odd_character() {
        let args = |last: &str| vec!["--name=etcd1".to_owned(), last.to_owned()];
        assert_eq!(environment_file(&args("--a=b")), Ok("KILN_ETCD_ARGS=\"--name=etcd1 --a=b\"\n".into()));
        for bad in ["--a=b c", "--a=\"", "--a=$HOME", "--a=\n", ""] {
            assert_eq!(environment_file(&args(bad)), Err(ArgumentError(bad.into())));
        }
    }

    #[test]
    #[ignore = "needs etcd: KILN_TEST_ETCD names an etcd 3.5"]
    #[expect(clippy::disallowed_methods, reason = "which etcd to ask is the one thing this test is told")]
    fn a_real_etcd_3_5_knows_every_flag() {
        let etcd = std::env::var("KILN_TEST_ETCD").expect("KILN_TEST_ETCD names an etcd 3.5");
        let members = members();
        let help = Program::new(&etcd).arg("--help").read().unwrap();
        let text = rendered(EtcdLine::V3_5, Start::Existing { token: TOKEN, members: &members });
        for line in text.lines() {
            let flag = line.split('=').next().unwrap();
            assert!(help.lines().any(|help| help.split_whitespace().next() == Some(flag)), "{flag}");
        }
    }
}
