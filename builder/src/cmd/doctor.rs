//! `kiln doctor`: what this machine lacks.

use anyhow::Result;
use serde::Serialize;

use crate::cli::Places;
use crate::exit::Refusal;
use crate::tool;

/// Programs by what they are needed for.
const PROGRAMS: [(&str, &[&str]); 6] = [
    ("kiln lock", &["apt-get", "apt-cache", "gpgv", "mmdebstrap"]),
    ("kiln build", &["mmdebstrap", "dpkg-deb", "dpkg", "tar", "qemu-img"]),
    ("libvirt hosts", &["virsh", "ssh"]),
    ("kiln build (cloud images, [customize])", &["virt-customize", "virt-filesystems", "timeout"]),
    ("kiln lab (containers)", &["ip", "nft", "dnsmasq", "systemd-nspawn", "nsenter"]),
    ("kiln lab (VMs)", &["ip", "nft", "dnsmasq", "qemu-system-x86_64", "qemu-img", "virsh", "libvirtd", "virtlogd"]),
];

/// Name the programs this machine lacks, with the package that brings each
///
/// Example: kiln doctor
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct DoctorArgs {}

#[derive(Serialize)]
struct Program {
    program: &'static str,
    needed_by: Vec<&'static str>,
    found: Option<std::path::PathBuf>,
    package: &'static str,
}

impl DoctorArgs {
    /// Runs it.
    ///
    /// # Errors
    /// A [`Refusal`] when something is missing, after everything has been printed.
    pub fn run(self, places: &Places) -> Result<()> {
        let mut programs: Vec<Program> = Vec::new();
        for (command, names) in PROGRAMS {
            for name in names {
                match programs.iter_mut().find(|p| p.program == *name) {
                    Some(known) => known.needed_by.push(command),
                    None => programs.push(Program {
                        program: name,
                        needed_by: vec![command],
                        found: tool::find(name),
                        package: tool::package_of(name).unwrap_or("?"),
                    }),
                }
            }
        }
        if !nix::unistd::geteuid().is_root() {
            programs.push(Program {
                program: "newuidmap",
                needed_by: vec!["kiln build as an ordinary user"],
                found: tool::find("newuidmap"),
                package: "uidmap",
            });
        }
        let mut text = String::new();
        let mut packages: Vec<&str> = Vec::new();
        for program in &programs {
            let state = match &program.found {
                Some(path) => path.display().to_string(),
                None => {
                    packages.push(program.package);
                    format!("missing: package {}, needed by {}", program.package, program.needed_by.join(", "))
                }
            };
            text.push_str(&format!("{:<20} {state}\n", program.program));
        }
        packages.sort_unstable();
        packages.dedup();
        places.print(&programs, &text)?;
        if packages.is_empty() {
            return Ok(());
        }
        let remedy = format!("apt-get install {}", packages.join(" "));
        Err(Refusal::new("some programs are missing", remedy).into())
    }
}
