//! `kiln dns apply` against real servers: BIND, which takes updates, and dnsmasq, which does not.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "reads a key to bend it")]

use std::process::Output;

use kiln_tests::dns_servers::{FORWARD, PROFILE, REVERSE, Server, bind, bind_allowing};
use kiln_tests::netns::Network;
use kiln_tests::program::run;
use serde_json::Value;

/// A record of somebody else's in the same zone.
const NEIGHBOUR: &str = "other IN A 10.103.0.9\n";

fn report(done: &Output) -> Value {
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(done)))
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// Exit code, records added, removed, right before, and stale ones left.
fn numbers(done: &Output) -> (Option<i32>, usize, usize, u64, usize) {
    let report = report(done);
    let zones = report["zones"].as_array().expect("zones");
    let count = |what: &str| zones.iter().map(|zone| zone[what].as_array().expect("records").len()).sum();
    let left = report["left"].as_array().expect("records").len();
    (done.status.code(), count("added"), count("removed"), report["right"].as_u64().expect("a number"), left)
}

fn serials(server: &Server) -> [Vec<String>; 2] {
    [FORWARD, REVERSE].map(|zone| server.answers(zone, "SOA"))
}

/// Zones and their primary are found by asking; each zone is told once; a second run sends nothing.
#[test]
#[ignore = "needs root and bind9"]
fn empty_zones_get_every_record_and_a_second_run_sends_nothing() {
    let mut server = Server::new();
    let key = bind(&mut server, NEIGHBOUR, "");
    let before = serials(&server);
    let dry = server.kiln(&["dns", "apply", PROFILE, "--dry-run"]);
    assert_eq!(numbers(&dry), (Some(0), 18 + 6, 0, 0, 0), "{}", said(&dry));
    assert_eq!(report(&dry)["check"], Value::Null);
    assert_eq!(serials(&server), before, "a dry run sends nothing");

    let first = server.kiln(&["dns", "apply", PROFILE, "--key", &key]);
    assert_eq!(numbers(&first), (Some(0), 18 + 6, 0, 0, 0), "{}", said(&first));
    server.answers_the_profile();
    assert_eq!(server.answers(&format!("other.{FORWARD}"), "A"), ["10.103.0.9"], "a neighbour is left alone");
    let after = serials(&server);
    assert_ne!(after, before);

    let second = server.kiln(&["dns", "apply", PROFILE, "--key", &key, "--server", &Network::SWITCH.to_string()]);
    assert_eq!(numbers(&second), (Some(0), 0, 0, 24, 0), "{}", said(&second));
    assert_eq!(serials(&server), after, "what is right is not sent");
}

/// Of one zone half is right, and stale records are about: what is missing is added; what is stale goes only with its node's name.
#[test]
#[ignore = "needs root and bind9"]
fn stale_records_go_only_when_their_node_is_named() {
    let mut server = Server::new();
    let stale = "k8s0etcd1 IN A 10.103.0.66\nk8s0etcd2 IN A 10.103.0.102\ngone IN A 10.103.0.77\n_etcd-server-ssl._tcp IN SRV 0 0 2380 gone\n";
    let key =
        bind(&mut server, &format!("{NEIGHBOUR}{stale}"), "101 IN PTR gone.kloud.lan.\n77 IN PTR gone.kloud.lan.\n");
    let apply = |more: &[&str]| server.kiln(&[&["dns", "apply", PROFILE, "--key", &key], more].concat());

    let unnamed = apply(&[]);
    assert_eq!(numbers(&unnamed), (Some(1), 23, 0, 1, 3), "{}", said(&unnamed));
    assert!(said(&unnamed).contains("does not say what `k8s0` lives by"), "{}", said(&unnamed));
    let elsewhere = apply(&["--prune", "gone.example.com"]);
    assert_eq!(elsewhere.status.code(), Some(78), "{}", said(&elsewhere));

    // What pointed to it, its own name and the pointers to it go.
    let gone = apply(&["--prune", "gone"]);
    assert_eq!(numbers(&gone), (Some(1), 0, 4, 24, 1), "{}", said(&gone));
    let own = apply(&["--prune", "k8s0etcd1"]);
    assert_eq!(numbers(&own), (Some(0), 0, 1, 24, 0), "{}", said(&own));
    server.answers_the_profile();
    assert_eq!(server.answers(&format!("other.{FORWARD}"), "A"), ["10.103.0.9"], "a neighbour is left alone");
    for (name, kind) in [(format!("gone.{FORWARD}"), "A"), (format!("77.{REVERSE}"), "PTR")] {
        assert_eq!(server.answers(&name, kind), Vec::<String>::new());
    }
}

/// Another secret, another name, a file for all to read, a file that is no key: each is said, and nothing changes.
#[test]
#[ignore = "needs root and bind9"]
fn a_key_that_is_not_the_servers_is_said_to_be() {
    let mut server = Server::new();
    let key = bind(&mut server, NEIGHBOUR, "");
    let before = serials(&server);
    let own = fs_err::read_to_string(&key).expect("the key");
    let put = |name: &str, content: &str, mode: &str| {
        let file = server.put(name, content);
        run(&["chmod", mode, &file]);
        file
    };
    let other_secret = run(&["tsig-keygen", "kiln"]);
    for (name, content, mode, code, words) in [
        ("secret", other_secret.as_str(), "600", 1, "TSIG key rejected (BADSIG)"),
        ("name", &own.replace("\"kiln\"", "\"other\""), "600", 1, "TSIG key rejected (BADKEY)"),
        ("algorithm", &own.replace("hmac-sha256", "hmac-sha512"), "600", 1, "TSIG key rejected (BADKEY)"),
        ("open", &own, "640", 78, "is for others to read too (mode 0640)"),
        ("nothing", "", "600", 1, "it is not of the form `key"),
        ("old", &own.replace("hmac-sha256", "hmac-md5"), "600", 1, "its algorithm `hmac-md5`"),
    ] {
        let done = server.kiln(&["dns", "apply", PROFILE, "--key", &put(name, content, mode)]);
        assert_eq!(done.status.code(), Some(code), "{name}: {}", said(&done));
        assert!(said(&done).contains(words) && said(&done).contains("hint: "), "{name}: {}", said(&done));
        let secret = content.split("secret \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("no secret");
        assert!(!said(&done).contains(secret), "{name}: {}", said(&done));
    }
    assert_eq!(serials(&server), before);
}

/// A zone that the key may not change, a zone that nobody has, a server that is not there.
#[test]
#[ignore = "needs root and bind9"]
fn what_a_server_does_not_do_is_said_with_a_way_out() {
    let mut server = Server::new();
    let key = bind_allowing(&mut server, NEIGHBOUR, "", "none;");
    let before = serials(&server);
    let apply = |server: &Server, more: &[&str]| {
        let done = server.kiln(&[&["dns", "apply", PROFILE, "--key", &key], more].concat());
        assert!(said(&done).contains("hint: "), "{}", said(&done));
        (done.status.code(), said(&done))
    };
    let (code, refused) = apply(&server, &[]);
    assert_eq!(code, Some(1));
    assert!(refused.contains("refuses the update of zone `kloud.lan` (REFUSED)"), "{refused}");
    assert_eq!(serials(&server), before);
    // An address of the namespace at which nobody listens.
    let (code, silent) = apply(&server, &["--server", "127.0.0.1"]);
    assert_eq!(code, Some(75));
    assert!(silent.contains("127.0.0.1:53 cannot be asked"), "{silent}");
    server.stop();
    let (code, silent) = apply(&server, &[]);
    assert_eq!(code, Some(75));
    assert!(silent.contains("cannot be asked"), "{silent}");
}

/// dnsmasq has no zones; where it plays an authoritative server it still takes no updates.
#[test]
#[ignore = "needs root and dnsmasq"]
fn dnsmasq_takes_no_updates_and_the_way_out_is_named() {
    let options = format!("no-resolv\nno-hosts\nbind-interfaces\nlisten-address={}\npid-file=\n", Network::SWITCH);
    let authority = format!(
        "auth-server=ns.{FORWARD}\nauth-zone={FORWARD}\nauth-zone={REVERSE}\nhost-record=ns.{FORWARD},{}\n",
        Network::SWITCH
    );
    for (more, words) in [("", "no zone for `"), (authority.as_str(), "kiln dns emit")] {
        let mut server = Server::new();
        let config = server.put("dnsmasq.conf", &format!("{options}{more}host-record=known.{FORWARD},10.103.0.9\n"));
        server.start(&["dnsmasq", "--keep-in-foreground", &format!("--conf-file={config}")]);
        server.wait_answers(&format!("known.{FORWARD}"), "A");
        let key = server.put("kiln.key", &run(&["tsig-keygen", "kiln"]));
        run(&["chmod", "600", &key]);
        let done = server.kiln(&["dns", "apply", PROFILE, "--key", &key, "--server", &Network::SWITCH.to_string()]);
        assert_eq!(done.status.code(), Some(1), "{}", said(&done));
        assert!(said(&done).contains(words) && said(&done).contains("hint: "), "{}", said(&done));
    }
}
