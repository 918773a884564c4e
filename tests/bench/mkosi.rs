//! mkosi of Debian 13, in systemd-nspawn, making an image of the packages that one of our definitions names.
//!
//! Everything is in its favour: no boot loader, no network once its cache is warm, and where it builds all anew it keeps nothing for later.

use std::path::{Path, PathBuf};

use camino::Utf8PathBuf;
use kiln_builder::archive;
use kiln_builder::image_definition::ImageDefinition;
use kiln_tests::node::text;
use kiln_tests::program::{run, workspace};

use super::{debian_tree, timed, write_agent};

/// mkosi itself, and what it runs: it takes its tools from where it runs.
const PACKAGES: [&str; 12] = [
    "mkosi",
    "bubblewrap",
    "cpio",
    "debian-archive-keyring",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "kmod",
    "mtools",
    "systemd-repart",
    "uidmap",
    "zstd",
];

/// A project of mkosi's, with a warm cache of packages.
#[derive(Debug)]
pub(crate) struct Mkosi {
    tree: PathBuf,
    dir: PathBuf,
}

impl Mkosi {
    /// The project of one of our definitions, `debian-13`.
    pub(crate) fn of(definition: &str) -> Self {
        let file = workspace().join("images").join(format!("{definition}.toml"));
        let file = Utf8PathBuf::try_from(file).expect("a path of UTF-8");
        let text = std::fs::read_to_string(&file).expect("reading the definition");
        let definition = ImageDefinition::parse(&file, &text).expect("the definition is sound");
        let mkosi = Self {
            tree: debian_tree::with("mkosi", &PACKAGES),
            dir: debian_tree::kept().join("mkosi-of").join(&definition.name),
        };
        mkosi.configure(&definition);
        mkosi.change(0);
        if !mkosi.dir.join("work/warm").exists() {
            // Lists and packages, and what `--incremental` keeps.
            mkosi.run(&["--incremental=yes"]);
            std::fs::write(mkosi.dir.join("work/warm"), "").expect("writing a mark");
        }
        mkosi
    }

    /// Seconds for an image of packages that were fetched before, and nothing else.
    pub(crate) fn cold(&self) -> f64 {
        timed(|| self.run(&["--incremental=no", "--cache-only=always"])).0
    }

    /// Seconds for an image in which one file is another one than in the image before: the agent, as for kiln.
    pub(crate) fn changed(&self, n: usize) -> f64 {
        self.change(n + 1);
        timed(|| self.run(&["--incremental=yes", "--cache-only=always"])).0
    }

    fn change(&self, n: usize) {
        let place = self.dir.join("project/mkosi.extra/usr/bin");
        std::fs::create_dir_all(&place).expect("making a directory");
        write_agent(&place.join("firstboot"), &format!("bench {n} {}", std::process::id()));
    }

    fn configure(&self, definition: &ImageDefinition) {
        let project = self.dir.join("project");
        let apt = project.join("mkosi.sandbox/etc/apt");
        for made in [apt.join("sources.list.d"), apt.join("keyrings")] {
            std::fs::create_dir_all(made).expect("making a directory");
        }
        for made in ["cache", "incremental", "out", "tmp"] {
            std::fs::create_dir_all(self.dir.join("work").join(made)).expect("making a directory");
        }
        let mut sources = String::new();
        for source in archive::mirrors(&definition.archives).expect("the archives have mirrors") {
            let archive = &source.archive;
            let keyring = archive.keyring.file_name().expect("a keyring has a name");
            std::fs::copy(&archive.keyring, apt.join("keyrings").join(keyring)).expect("copying a keyring");
            sources.push_str(&format!(
                "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\nSigned-By: /etc/apt/keyrings/{keyring}\n\n",
                source.mirror,
                archive.suites.join(" "),
                archive.components.join(" ")
            ));
        }
        // mkosi's own would ask archives that not every mirror has.
        std::fs::write(apt.join("sources.list.d/mkosi.sources"), sources).expect("writing sources");
        let first = definition.archives.first().expect("a definition has an archive");
        let configuration = format!(
            "[Distribution]\nDistribution={}\nRelease={}\nArchitecture=x86-64\n\n\
             [Output]\nFormat=disk\nOutput=image\nOutputDirectory=/work/out\n\n\
             [Content]\nBootable=no\nWithDocs=no\nPackages={}\n\n\
             [Build]\nPackageCacheDirectory=/work/cache\nCacheDirectory=/work/incremental\nWorkspaceDirectory=/work/tmp\n",
            first.distribution,
            first.suites[0],
            definition.packages.join(",")
        );
        std::fs::write(project.join("mkosi.conf"), configuration).expect("writing a configuration");
    }

    fn run(&self, more: &[&str]) {
        let bind = |name: &str| format!("--bind={}:/{name}", text(&Path::join(&self.dir, name)));
        let (project, work, tree) = (bind("project"), bind("work"), text(&self.tree));
        let enter =
            ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", &project, &work, "-D", &tree, "--pipe"];
        run(&[&enter[..], &["mkosi", "--directory=/project", "--force"], more, &["build"]].concat());
    }
}
