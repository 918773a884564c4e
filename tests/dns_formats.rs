//! `kiln dns emit` against the real servers: what each is told, it answers.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

use kiln_tests::dns_servers::{FORWARD, PROFILE, REVERSE, Server, bind};
use kiln_tests::netns::Network;
use kiln_tests::places::Places;
use kiln_tests::program::run;

fn emitted(format: &str) -> String {
    Places::own().ok(&["dns", "emit", PROFILE, "--format", format])
}

#[test]
#[ignore = "needs root and dnsmasq"]
fn dnsmasq_answers_what_it_is_told() {
    let mut server = Server::new();
    let options = format!("no-resolv\nno-hosts\nbind-interfaces\nlisten-address={}\npid-file=\n", Network::SWITCH);
    let config = server.put("dnsmasq.conf", &(options + &emitted("dnsmasq")));
    server.start(&["dnsmasq", "--keep-in-foreground", &format!("--conf-file={config}")]);
    server.answers_the_profile();
}

#[test]
#[ignore = "needs root and unbound"]
fn unbound_answers_what_it_is_told() {
    let mut server = Server::new();
    let options = format!(
        "server:\n  interface: {0}\n  access-control: 0.0.0.0/0 allow\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  do-daemonize: no\n  \
         local-zone: \"{FORWARD}.\" static\n  local-zone: \"{REVERSE}.\" static\n",
        Network::SWITCH
    );
    let config = server.put("unbound.conf", &(options + &emitted("unbound")));
    server.start(&["unbound", "-d", "-c", &config]);
    server.answers_the_profile();
}

#[test]
#[ignore = "needs root and bind9"]
fn bind_answers_what_its_zone_files_say() {
    let emitted = emitted("bind");
    let (forward, reverse) = emitted.split_once("\n\n").expect("two zones");
    assert!(forward.starts_with(&format!("; zone {FORWARD}:")) && reverse.starts_with(&format!("; zone {REVERSE}:")));
    let mut server = Server::new();
    bind(&mut server, &format!("{forward}\n"), reverse);
    server.answers_the_profile();
}

/// Over records of another cluster under the same names: they are replaced. A second run changes nothing.
#[test]
#[ignore = "needs root and bind9"]
fn nsupdate_replaces_what_was_there() {
    let mut server = Server::new();
    let stale = "k8s0etcd1 IN A 10.103.0.66\n_etcd-server-ssl._tcp IN SRV 0 0 2380 gone\n";
    let key = bind(&mut server, stale, "101 IN PTR gone.kloud.lan.\n");
    let commands = server.put("commands", &format!("server {}\n{}", Network::SWITCH, emitted("nsupdate")));
    // The checks of `kiln dns check`: before and after, at the server itself and as its zones name it.
    let check = |server: &Server| {
        let done = server.kiln(&["dns", "check", PROFILE, "--server", &Network::SWITCH.to_string()]);
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).expect("a report");
        let count = |verdict: &str| report.to_string().matches(&format!("\"verdict\":\"{verdict}\"")).count();
        (done.status.code(), count("right"), count("wrong"), count("unknown"))
    };
    assert_eq!(check(&server), (Some(1), 0, 14, 0));
    for _ in 0..2 {
        run(&["ip", "netns", "exec", &server.network.switch(), "nsupdate", "-k", &key, &commands]);
        server.answers_the_profile();
        assert_eq!(check(&server), (Some(0), 14, 0, 0));
    }
    server.stop();
    assert_eq!(check(&server), (Some(1), 0, 0, 14), "silence is no answer");
}
