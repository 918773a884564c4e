//! `kiln trust`: whose images may be run, and whether an image is what its builder signed.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use crate::cli::Places;
use crate::clock;
use crate::exit::Refusal;
use crate::profile::{LABEL_RULE, is_label};
use crate::store::{Entry, Store};
use crate::trust::seal::{PROVENANCE, SIGNATURE, Sealer};
use crate::trust::signing_key::SigningKey;
use crate::trust::{self, Depth, Keyring, SBOM, Standing};

/// Say whose images may be run, and look at who made one
///
/// Beside every image lie its sums, their signature by the key of the home that built it, its provenance and its bill of materials. `kiln lab` runs
/// an image only if it is unaltered and signed by this home's key or by one that was added here.
///
/// Example: kiln trust verify dcccff3f
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct TrustArgs {
    /// What to do
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the keys whose images may be run; makes this home's own if there is none
    ///
    /// Example: kiln trust keys
    Keys,
    /// Trust another builder's key: its signing/signing.pub
    ///
    /// Example: kiln trust add ci ./signing.pub
    Add {
        /// What to call it
        name: String,
        /// The public key, PEM
        file: Utf8PathBuf,
    },
    /// Stop trusting a key that was added
    ///
    /// Example: kiln trust remove ci
    Remove {
        /// Its name
        name: String,
    },
    /// Say who made an image of what, without reading its disks
    ///
    /// Example: kiln trust show dcccff3f
    Show {
        /// The first eight digits of the image's key or more
        key: String,
    },
    /// Read every byte of an image and compare it with what was signed
    ///
    /// Example: kiln trust verify dcccff3f
    Verify {
        /// The first eight digits of the image's key or more
        key: String,
    },
    /// Sign an image that nobody signed, once every byte is what it was when it was finished
    ///
    /// Example: kiln trust sign dcccff3f
    Sign {
        /// The first eight digits of the image's key or more
        key: String,
    },
}

#[derive(Serialize)]
struct KeyRow {
    name: String,
    key: String,
    file: Utf8PathBuf,
}

#[derive(Serialize)]
struct Told {
    key: String,
    standing: &'static str,
    signed_by: Option<String>,
    public_key: Option<String>,
    what: Option<String>,
    signature: String,
    provenance: String,
    sbom: String,
}

impl TrustArgs {
    /// Runs it.
    ///
    /// # Errors
    /// A [`Refusal`] when an image is not what a trusted key signed; when a file cannot be read or written.
    pub fn run(self, places: &Places) -> Result<()> {
        let dir = places.signing()?;
        match self.verb {
            Verb::Keys => keys(places, &dir),
            Verb::Add { name, file } => add(places, &dir, &name, &file),
            Verb::Remove { name } => remove(places, &dir, &name),
            Verb::Show { key } => tell(places, &dir, &key, Depth::Small).map(drop),
            Verb::Verify { key } => {
                let (entry, standing) = tell(places, &dir, &key, Depth::Whole)?;
                Ok(trust::admit(&entry.manifest.key, &standing, false)?)
            }
            Verb::Sign { key } => sign(places, &dir, &key),
        }
    }
}

fn keys(places: &Places, dir: &Utf8Path) -> Result<()> {
    SigningKey::ensure(dir)?;
    let row = |(name, key): &(Option<String>, kiln_firstboot::digest::PublicKey)| KeyRow {
        name: name.clone().unwrap_or_else(|| trust::OWN.into()),
        key: key.to_string(),
        file: trust::key_file(dir, name.as_deref()),
    };
    let rows: Vec<KeyRow> = Keyring::read(dir)?.keys.iter().map(row).collect();
    let text = rows.iter().map(|r| format!("{:16} {}  {}\n", r.name, r.key, r.file)).collect::<String>();
    places.print(&rows, &text)
}

fn add(places: &Places, dir: &Utf8Path, name: &str, file: &Utf8Path) -> Result<()> {
    if !is_label(name) {
        return Err(Refusal::new(format!("`{name}` cannot be a key's name"), LABEL_RULE).into());
    }
    let key = Keyring::add(dir, name, file)?;
    let row = KeyRow { name: name.into(), key: key.to_string(), file: trust::key_file(dir, Some(name)) };
    places.print(&row, &format!("images signed by `{name}`, {key}, may be run\n"))
}

fn remove(places: &Places, dir: &Utf8Path, name: &str) -> Result<()> {
    if !is_label(name) || !Keyring::remove(dir, name)? {
        return Err(Refusal::new(format!("no key `{name}` was added"), "list them: kiln trust keys").into());
    }
    places.print(&name, &format!("images signed by `{name}` may not be run any more\n"))
}

/// The image that the beginning of a key names.
fn find(places: &Places, name: &str) -> Result<(Store, Entry)> {
    let store = Store::at(places.store()?);
    let none = || {
        Refusal::new(
            format!("`{name}` names no image in the store `{}`", store.root().display()),
            "name eight digits of an image's key or more: kiln store ls",
        )
    };
    let dir = store.find_entry(name)?.ok_or_else(none)?;
    let key = dir.file_name().and_then(|key| key.to_str()).and_then(|key| key.parse().ok()).ok_or_else(none)?;
    let entry = store.entry(&key)?.ok_or_else(none)?;
    Ok((store, entry))
}

fn tell(places: &Places, dir: &Utf8Path, name: &str, depth: Depth) -> Result<(Entry, Standing)> {
    let (store, entry) = find(places, name)?;
    let key = entry.manifest.key;
    let standing = trust::standing(&store, &entry, &Keyring::read(dir)?, depth)?;
    let path = |file: &str| entry.dir.join(file).display().to_string();
    let (word, signed_by, public_key, what) = match &standing {
        Standing::Trusted { by, key } => ("trusted", Some(by.clone()), Some(key.to_string()), None),
        Standing::Stranger { key } => ("stranger", None, Some(key.to_string()), None),
        Standing::Unsigned => ("unsigned", None, None, None),
        Standing::Altered { what } => ("altered", None, None, Some(what.clone())),
    };
    let told = Told {
        key: key.to_string(),
        standing: word,
        signed_by,
        public_key,
        what,
        signature: path(SIGNATURE),
        provenance: path(PROVENANCE),
        sbom: path(SBOM),
    };
    let mut text = format!("image       {key}\nstanding    {word}\n");
    for (label, value) in [("signed by", &told.signed_by), ("public key", &told.public_key), ("what", &told.what)] {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{label:11} {value}");
        }
    }
    if !matches!(standing, Standing::Unsigned) {
        let _ = writeln!(text, "signature   {}\nprovenance  {}", told.signature, told.provenance);
    }
    if entry.dir.join(SBOM).exists() {
        let _ = writeln!(text, "materials   {}", told.sbom);
    }
    let disks =
        if depth == Depth::Whole { "every byte was read" } else { "the disks were not read: kiln trust verify" };
    let _ = writeln!(text, "looked at   {disks}");
    places.print(&told, &text)?;
    Ok((entry, standing))
}

fn sign(places: &Places, dir: &Utf8Path, name: &str) -> Result<()> {
    let (store, entry) = find(places, name)?;
    let short = &entry.manifest.key.to_string()[..12];
    let recipe = trust::recipe_of(&entry).context("signing an image")?;
    let standing = trust::standing(&store, &entry, &Keyring::read(dir)?, Depth::Small)?;
    match &standing {
        Standing::Unsigned => {}
        Standing::Trusted { by, .. } => {
            return places.print(&by, &format!("nothing to do: image {short} is signed by `{by}`\n"));
        }
        // Whoever changed it may have changed everything.
        Standing::Stranger { .. } | Standing::Altered { .. } => {
            return Ok(trust::admit(&entry.manifest.key, &standing, false)?);
        }
    }
    if let Some(damage) = store.check_entry(&entry)?.first() {
        let what = format!("image {short} is damaged: `{}` {}", damage.path.display(), damage.what);
        return Err(Refusal::new(what, "remove its directory, and build or import it again").into());
    }
    if recipe.keys().image != entry.manifest.key {
        let what = format!("image {short} is not the one that its recipe makes");
        return Err(Refusal::new(what, "remove its directory, and build or import it again").into());
    }
    Sealer { keys: dir.to_owned(), now: clock::now() }.seal(&entry.dir, &entry.manifest, &recipe)?;
    places.print(&entry.manifest.key, &format!("signed image {short} with this home's key\n"))
}
