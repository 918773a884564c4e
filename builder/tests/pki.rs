//! `kiln pki` as an operator meets it: exit codes, what is printed where, what two tools outside of kiln think of the result.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: the files a person would have")]

use std::path::Path;

use assert_cmd::Command;

fn kiln(home: &Path) -> Command {
    let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
    kiln.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    kiln.env_clear().env("KILN_HOME", home);
    kiln
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().code(0).get_output().stdout.clone()).unwrap()
}

fn stderr(command: &mut Command, code: i32) -> String {
    let assert = command.assert().code(code);
    assert!(assert.get_output().stdout.is_empty());
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn init_mints_once_and_refuses_another_cluster_with_78() {
    let home = tempfile::tempdir().unwrap();
    let first: serde_json::Value =
        serde_json::from_str(&stdout(kiln(home.path()).args(["pki", "init", "k8s0", "--json"]))).unwrap();
    assert_eq!((&first["outcome"], &first["generation"]), (&"minted".into(), &1.into()));
    assert_eq!(first["nodes"][5]["fqdn"], "k8s0etcd6.kloud.lan");
    let again: serde_json::Value =
        serde_json::from_str(&stdout(kiln(home.path()).args(["pki", "init", "k8s0", "--json"]))).unwrap();
    assert_eq!((&again["outcome"], &again["cluster"]), (&"unchanged".into(), &first["cluster"]));
    let said = stdout(kiln(home.path()).args(["pki", "init", "k8s0"]));
    assert!(said.starts_with("nothing to do: the keys are in "), "{said}");

    let text = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../profiles/k8s0.toml")).unwrap();
    let changed = home.path().join("k8s0.toml");
    fs_err::write(&changed, text.replace("10.103.0.203", "10.103.0.204")).unwrap();
    let said = stderr(kiln(home.path()).args(["pki", "init"]).arg(&changed), 78);
    assert!(said.starts_with("error: minting the keys of `k8s0`: generation 1 of the charter is signed"), "{said}");
    assert!(said.ends_with("mint anew: --generation 2\n"), "{said}");
}

#[test]
fn a_wrong_profile_fails_with_all_its_problems_and_wrong_usage_with_2() {
    let home = tempfile::tempdir().unwrap();
    let profile = home.path().join("x.toml");
    fs_err::write(&profile, "schema = 1\nname = 'X'\ncolour = 'red'\n").unwrap();
    let said = stderr(kiln(home.path()).args(["pki", "init"]).arg(&profile), 1);
    assert!(said.starts_with(&format!("error: 7 problems in `{}`\n", profile.display())), "{said}");
    assert!(said.contains("x.toml:3: colour: unknown field\n  hint: known here: "), "{said}");
    assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), 1, "a wrong profile leaves nothing behind");

    let said = stderr(kiln(home.path()).args(["pki", "init", "no-such"]), 1);
    assert!(
        said.starts_with("error: reading profile `no-such`: failed to open file `profiles/no-such.toml`"),
        "{said}"
    );
    stderr(kiln(home.path()).args(["pki", "init"]), 2);
    stderr(kiln(home.path()).args(["pki", "init", "lab", "--window", "0"]), 2);
    let said = stderr(kiln(home.path()).args(["pki", "client", "lab", "app"]), 78);
    assert!(said.ends_with("hint: mint them: kiln pki init lab\n"), "{said}");
}

#[test]
fn openssl_and_tar_read_what_was_minted() {
    let home = tempfile::tempdir().unwrap();
    stdout(kiln(home.path()).args(["pki", "init", "lab"]));
    stdout(kiln(home.path()).args(["pki", "client", "lab", "app"]));
    let pki = home.path().join("pki/lab");
    let openssl = |args: &[&str]| stdout(Command::new("openssl").current_dir(&pki).args(args));
    assert_eq!(
        openssl(&["verify", "-x509_strict", "-CAfile", "peer-root.crt", "issuers/etcd1.crt"]),
        "issuers/etcd1.crt: OK\n"
    );
    assert_eq!(
        openssl(&["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "client-root.crt", "clients/app.crt"]),
        "clients/app.crt: OK\n"
    );
    let foreign = ["verify", "-CAfile", "peer-root.crt", "clients/app.crt"];
    Command::new("openssl").current_dir(&pki).args(foreign).assert().code(2);
    let constraints = openssl(&["x509", "-in", "issuers/etcd1.crt", "-noout", "-ext", "nameConstraints"]);
    assert_eq!(
        constraints.lines().map(str::trim).collect::<Vec<_>>(),
        [
            "X509v3 Name Constraints: critical",
            "Permitted:",
            "DNS:etcd1.lab.kiln.test",
            "IP:10.77.0.11/255.255.255.255",
            "IP:127.0.0.0/255.0.0.0",
            "IP:0:0:0:0:0:0:0:1/FFFF:FFFF:FFFF:FFFF:FFFF:FFFF:FFFF:FFFF"
        ]
    );
    let listed = stdout(Command::new("tar").current_dir(&pki).args(["-tf", "seeds/etcd1.tar"]));
    assert_eq!(listed.lines().collect::<Vec<_>>(), kiln_firstboot::seed::FILES);
}
