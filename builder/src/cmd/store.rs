//! `kiln store`: what the store holds, why, and whether it is sound.

mod show;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use camino::Utf8PathBuf;
use kiln_firstboot::digest::Sha256Digest;
use serde::Serialize;

use crate::cli::Places;
use crate::clock;
use crate::cmd::transport::{self, ImageArgs};
use crate::exit::Refusal;
use crate::store::{BlobState, Damage, Entry, Root, RootKind, Store};

/// Look at, keep and tidy what kiln has built
///
/// Everything that was built or fetched lies in the store under the key of its recipe or the digest of its bytes. Roots say what stays: the last build
/// of every profile, labs that are up, and images pinned by name.
///
/// Example: kiln store gc --dry-run
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct StoreArgs {
    /// What to do
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the entries with the roots that keep them
    ///
    /// Example: kiln store ls
    Ls,
    /// Show one entry: its files, what it was made of, which images and roots need it, who signed it
    ///
    /// Example: kiln store show dcccff3f
    Show {
        /// The first eight digits of its key or more
        key: String,
    },
    /// List the roots
    ///
    /// Example: kiln store roots
    Roots,
    /// Keep an image under a name of your choice
    ///
    /// Example: kiln store pin before-upgrade dcccff3f
    Pin {
        /// The name
        name: String,
        /// The first eight digits of the image's key or more
        key: String,
    },
    /// Give a name up; its image goes with the next collection unless another root keeps it
    ///
    /// Example: kiln store unpin before-upgrade
    Unpin {
        /// The name
        name: String,
    },
    /// Remove what no root reaches
    ///
    /// Example: kiln store gc --dry-run
    Gc {
        /// Say what would go, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Read every byte and compare it with what it was when it was finished
    ///
    /// Example: kiln store verify
    Verify,
    /// Write an image with its layers and inputs into one file
    ///
    /// Every byte is checked while it is read, and the file has its name only when it is whole. This home's key signs it.
    ///
    /// Example: kiln store export lab lab.kiln
    #[command(verbatim_doc_comment)]
    Export {
        /// The image
        #[command(flatten)]
        image: ImageArgs,
        /// The file, a tar
        file: Utf8PathBuf,
    },
    /// Enter what `export` wrote
    ///
    /// Every byte is checked before anything of it enters the store. Layers are taken only from a sender whose key is trusted; a stranger's image is
    /// entered and not run.
    ///
    /// Example: kiln store import lab.kiln --pin july
    #[command(verbatim_doc_comment)]
    Import {
        /// The file
        file: Utf8PathBuf,
        /// Keep it under this name
        #[arg(long, value_name = "NAME")]
        pin: Option<String>,
    },
}

#[derive(Serialize)]
struct Row {
    key: String,
    layer: String,
    bytes: u64,
    roots: Vec<String>,
}

#[derive(Serialize)]
struct Collected {
    removed: bool,
    entries: Vec<String>,
    blobs: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct Verified {
    entries: usize,
    blobs: usize,
    damaged: Vec<DamageRow>,
}

#[derive(Serialize)]
struct DamageRow {
    path: String,
    what: String,
}

impl StoreArgs {
    /// Runs it.
    ///
    /// # Errors
    /// The store's; a [`Refusal`] where acting could lose something.
    pub fn run(self, places: &Places) -> Result<()> {
        let store = Store::at(places.store()?);
        match self.verb {
            Verb::Ls => ls(places, &store),
            Verb::Show { key } => show::run(places, &store, &find(&store, &key)?),
            Verb::Roots => roots(places, &store),
            Verb::Pin { name, key } => pin(places, &store, &name, &find(&store, &key)?),
            Verb::Unpin { name } => unpin(places, &store, &name),
            Verb::Gc { dry_run } => gc(places, &store, dry_run),
            Verb::Verify => verify(places, &store),
            Verb::Export { image, file } => transport::export(places, &store, &image, file),
            Verb::Import { file, pin } => transport::import(places, &store, &file, pin),
        }
    }
}

fn find(store: &Store, name: &str) -> Result<Entry> {
    let none = || {
        Refusal::new(
            format!("`{name}` names nothing in the store `{}`", store.root().display()),
            "name eight digits of a key or more: kiln store ls",
        )
    };
    let dir = store.find_entry(name)?.ok_or_else(none)?;
    let key: Option<Sha256Digest> = dir.file_name().and_then(|key| key.to_str()).and_then(|key| key.parse().ok());
    Ok(store.entry(&key.ok_or_else(none)?)?.ok_or_else(none)?)
}

fn name_of(root: &Root) -> String {
    format!("{}/{}", root.kind.word(), root.name)
}

fn ls(places: &Places, store: &Store) -> Result<()> {
    let (entries, broken) = store.entries()?;
    let mut kept: BTreeMap<Sha256Digest, Vec<String>> = BTreeMap::new();
    for root in store.roots()? {
        for key in store.reached(std::slice::from_ref(&root))?.entries {
            kept.entry(key).or_default().push(name_of(&root));
        }
    }
    let rows: Vec<Row> = entries
        .iter()
        .map(|entry| Row {
            key: entry.manifest.key.to_string(),
            layer: entry.manifest.layer.clone(),
            bytes: entry.manifest.bytes(),
            roots: kept.get(&entry.manifest.key).cloned().unwrap_or_default(),
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let roots = if row.roots.is_empty() { "-".to_owned() } else { row.roots.join(", ") };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}  {:13} {:6} MB  {roots}", &row.key[..12], row.layer, row.bytes.div_ceil(1_000_000));
    }
    for damage in &broken {
        let _ = writeln!(text, "broken: {} {}", damage.path.display(), damage.what);
    }
    places.print(&rows, &text)
}

fn roots(places: &Places, store: &Store) -> Result<()> {
    let roots = store.roots()?;
    let line = |root: &Root| {
        let since = jiff::Timestamp::from_second(root.since).map_or_else(|_| root.since.to_string(), |t| t.to_string());
        format!("{:24} {}  since {since}\n", name_of(root), &root.key.to_string()[..12])
    };
    places.print(&roots, &roots.iter().map(line).collect::<String>())
}

fn pin(places: &Places, store: &Store, name: &str, entry: &Entry) -> Result<()> {
    if !crate::profile::is_label(name) {
        return Err(Refusal::new(format!("`{name}` cannot be a pin's name"), crate::profile::LABEL_RULE).into());
    }
    if !entry.dir.join("recipe.json").is_file() {
        let what = format!("entry {} is the layer `{}` and no image", entry.manifest.key, entry.manifest.layer);
        return Err(Refusal::new(what, "pin the image that is made of it").into());
    }
    store.keep(RootKind::Pin, name, &entry.manifest.key, clock::now())?;
    places.print(&entry.manifest.key, &format!("`{name}` keeps image {}\n", entry.manifest.key))
}

fn unpin(places: &Places, store: &Store, name: &str) -> Result<()> {
    let known = crate::profile::is_label(name) && store.forget(RootKind::Pin, name)?;
    if !known {
        return Err(Refusal::new(format!("there is no pin `{name}`"), "list the roots: kiln store roots").into());
    }
    places.print(&name, &format!("`{name}` keeps nothing any more\n"))
}

fn gc(places: &Places, store: &Store, dry_run: bool) -> Result<()> {
    let garbage = if dry_run { store.garbage()? } else { store.gc()? };
    let name = |path: &std::path::PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries: Vec<String> = garbage.entries.iter().map(name).collect();
    let text = format!(
        "{} {} entries and {} fetched inputs, {} MB\n",
        if dry_run { "would remove" } else { "removed" },
        entries.len(),
        garbage.blobs.len(),
        garbage.bytes.div_ceil(1_000_000)
    );
    places.print(&Collected { removed: !dry_run, entries, blobs: garbage.blobs.len(), bytes: garbage.bytes }, &text)
}

fn verify(places: &Places, store: &Store) -> Result<()> {
    let (entries, mut damaged) = store.entries()?;
    for entry in &entries {
        log::info!("{} {}", entry.manifest.layer, entry.manifest.key);
        damaged.extend(store.check_entry(entry)?);
    }
    let blobs = store.blobs()?;
    for digest in &blobs {
        if let BlobState::WasCorrupt { found } = store.check_blob(digest)? {
            let what = format!("hashed to {found}; it has been removed and will be fetched anew");
            damaged.push(Damage { path: store.blob_path(digest), what });
        }
    }
    damaged.extend(store.check_roots()?);
    let mut text = format!("{} entries and {} fetched inputs: ", entries.len(), blobs.len());
    text.push_str(if damaged.is_empty() { "all sound\n" } else { "damaged\n" });
    let rows: Vec<DamageRow> = damaged
        .iter()
        .map(|damage| DamageRow { path: damage.path.display().to_string(), what: damage.what.clone() })
        .collect();
    for row in &rows {
        let _ = writeln!(text, "  `{}` {}", row.path, row.what);
    }
    let count = rows.len();
    places.print(&Verified { entries: entries.len(), blobs: blobs.len(), damaged: rows }, &text)?;
    if count > 0 {
        anyhow::bail!("{count} files are damaged\nhint: remove what is named above, and build again");
    }
    Ok(())
}
