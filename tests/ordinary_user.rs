//! An image is made without root, and does not depend on who makes it.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "copies what the user is given")]

use kiln_tests::node::text;
use kiln_tests::places::{Places, Scratch, Seeding};
use kiln_tests::program::{STRANGE_ENVIRONMENT, STRANGE_PROCESS, firstboot, kiln, run, workspace};

/// Somebody who owns nothing on this machine.
const NOBODY: &str = "65534";

#[test]
#[ignore = "needs root, to become somebody else, and a built image: tests/run"]
fn an_ordinary_user_makes_the_same_bytes_as_root() {
    let profile = fs_err::read_to_string(workspace().join("profiles/lab.toml")).unwrap();
    let agent = firstboot();
    let wish = ["build", "lab", "--firstboot", &text(&agent)];
    // Made anew here: what is in kiln's own store may be an older kiln's work.
    let roots = Scratch::new(Seeding::Link);
    roots.add_profile("lab", &profile);
    roots.take_public_keys("lab");
    let by_root = roots.places.json(&wish);

    let scratch = Scratch::new(Seeding::Copy);
    let dir = scratch.dir.path();
    let Places { project, home } = &scratch.places;
    scratch.add_profile("lab", &profile);
    scratch.take_public_keys("lab");
    let programs = [kiln(), agent].map(|program| {
        let copy = dir.join(program.file_name().unwrap());
        fs_err::copy(program, &copy).unwrap();
        text(&copy)
    });
    run(&["chown", "--recursive", &format!("{NOBODY}:{NOBODY}"), &text(dir)]);

    // Another umask, zone, language and number of processors than root's, too.
    let become_user =
        ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs", "env", "-i"];
    let path = ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"];
    let places = ["-C", &text(project), "--home", &text(home)];
    let build = [&programs[0], "--json", "build", "lab", "--firstboot", &programs[1]];
    let strange = [&STRANGE_ENVIRONMENT[..], &STRANGE_PROCESS].concat();
    let argv = [&become_user[..], &path, &strange, &build[..1], &places, &build[1..]].concat();
    let by_user: serde_json::Value = serde_json::from_str(&run(&argv)).unwrap();

    assert_eq!(by_user["key"], by_root["key"]);
    let made: Vec<_> = by_user["layers"].as_array().unwrap().iter().filter(|l| l["built"] == true).collect();
    assert_eq!(made.len(), 1, "{by_user}");
    assert_eq!(made[0]["name"], "image");
    for disk in ["raw", "image"] {
        let (root, user) = (by_root[disk].as_str().unwrap(), by_user[disk].as_str().unwrap());
        assert_ne!(root, user);
        // Says where they differ first, if they do.
        run(&["cmp", root, user]);
    }
}
