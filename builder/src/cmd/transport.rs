//! `kiln push`, `kiln pull`, `kiln store export` and `kiln store import`: images on their way between stores.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use anyhow::Result;
use camino::Utf8PathBuf;
use indicatif::{ProgressBar, ProgressStyle};
use kiln_firstboot::digest::Sha256Digest;
use serde::Serialize;

use crate::cli::Places;
use crate::clock;
use crate::closure::Extent;
use crate::closure::archive;
use crate::closure::incoming::Received;
use crate::closure::outgoing::Outgoing;
use crate::closure::remote::{Pulled, Remote, Sent};
use crate::exit::Refusal;
use crate::store::{Entry, RootKind, Store};
use crate::trust::signing_key::SigningKey;
use crate::trust::{Keyring, OWN, Standing};

/// Share an image: put it where others can pull it from
///
/// Sends the image with its layers and inputs, so that whoever pulls it can also build on it. What is there already is not sent again; an interrupted push
/// goes on where it was. The sender's key signs what is sent. URL is file:///DIRECTORY, s3://BUCKET/PREFIX, or http(s)://HOST/PATH of a server that takes PUT.
/// For S3, keys, region and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL or the files in ~/.aws.
///
/// Example: kiln push lab s3://images/kiln
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PushArgs {
    /// The image
    #[command(flatten)]
    image: ImageArgs,
    /// Where to
    url: String,
    /// Send what is there already, too: it may have been damaged
    #[arg(long)]
    again: bool,
}

/// Fetch an image that somebody pushed
///
/// Every byte is checked before anything of it enters the store. Layers are taken only from a sender whose key is trusted, for images that are built on them are
/// signed by this home; the image of a stranger is taken, and not run. An interrupted pull goes on where it was.
///
/// Example: kiln pull c17b5430660b31b664c169ee5908a98d3e85a5ad53ea68cae096bfec7d2c34e9 https://images.example.org/kiln --pin july
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PullArgs {
    /// The image's whole key
    key: Sha256Digest,
    /// Where from
    url: String,
    /// Fetch the image without its layers and inputs
    #[arg(long)]
    image_only: bool,
    /// Keep it under this name
    #[arg(long, value_name = "NAME")]
    pin: Option<String>,
}

/// An image, and how much of what it was made of.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// The first eight digits of an image's key or more, or the name of a profile whose last build is meant
    image: String,
    /// Leave its layers and inputs out
    #[arg(long)]
    image_only: bool,
}

#[derive(Serialize)]
struct PushOutput {
    key: String,
    url: String,
    #[serde(flatten)]
    sent: Sent,
}

#[derive(Serialize)]
struct Exported {
    key: String,
    file: Utf8PathBuf,
    objects: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct Arrived {
    key: String,
    objects: usize,
    bytes: u64,
    entries: Vec<String>,
    inputs: usize,
    layers_left_out: bool,
    signed_by: Option<String>,
    pin: Option<String>,
}

impl ImageArgs {
    fn find(&self, store: &Store) -> Result<Entry> {
        let none = || {
            Refusal::new(
                format!("`{}` names no image in the store `{}`", self.image, store.root().display()),
                "name eight digits of a key or more, or a profile that was built: kiln store ls",
            )
        };
        let key = match store.find_entry(&self.image)? {
            Some(dir) => dir.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()),
            None if crate::profile::is_label(&self.image) => store.keeps(RootKind::Build, &self.image)?,
            None => None,
        };
        Ok(store.entry(&key.ok_or_else(none)?)?.ok_or_else(none)?)
    }

    fn outgoing(&self, store: &Store) -> Result<Outgoing> {
        log::info!("reading and checking what is to be sent");
        Outgoing::of(store, &self.find(store)?, extent(self.image_only))
    }
}

fn extent(image_only: bool) -> Extent {
    if image_only { Extent::Image } else { Extent::Whole }
}

impl PushArgs {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Remote::push`] and [`Outgoing::of`].
    pub fn run(self, places: &Places) -> Result<()> {
        let remote = Remote::open(&self.url, &places.s3()?)?;
        let store = Store::at(places.store()?);
        let outgoing = self.image.outgoing(&store)?;
        let key = SigningKey::ensure(&places.signing()?)?;
        let shown = Shown::new("pushed");
        let sent =
            remote.push(&outgoing, extent(self.image.image_only), &key, self.again, &|d, a, b| shown.tell(d, a, b))?;
        let image = outgoing.closure.image;
        let text = format!(
            "image {image} is at `{}`: {} of {} objects sent, {} MB\nfetch it: kiln pull {image} {}\n",
            self.url,
            sent.sent,
            sent.objects,
            sent.bytes.div_ceil(1_000_000),
            self.url
        );
        places.print(&PushOutput { key: image.to_string(), url: self.url, sent }, &text)
    }
}

impl PullArgs {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Remote::pull`].
    pub fn run(self, places: &Places) -> Result<()> {
        check_pin(self.pin.as_deref())?;
        let remote = Remote::open(&self.url, &places.s3()?)?;
        let store = Store::at(places.store()?);
        let keyring = Keyring::read(&places.signing()?)?;
        let shown = Shown::new("pulled");
        let pulled = remote.pull(&store, keyring, &self.key, extent(self.image_only), &|d, a, b| shown.tell(d, a, b));
        let Pulled { objects, bytes, received } = pulled.map_err(|e| crate::store::explain_full(e, store.root()))?;
        arrived(places, &store, received, self.pin, objects, bytes)
    }
}

/// Writes an image with all it was made of into one file.
///
/// # Errors
/// As [`Outgoing::of`] and [`archive::export`].
pub fn export(places: &Places, store: &Store, image: &ImageArgs, file: Utf8PathBuf) -> Result<()> {
    let outgoing = image.outgoing(store)?;
    let key = SigningKey::ensure(&places.signing()?)?;
    let written = archive::export(&outgoing, &key, file.as_std_path())?;
    let key = outgoing.closure.image.to_string();
    let text = format!("image {key} is in `{file}`, {} MB\n", written.bytes.div_ceil(1_000_000));
    places.print(&Exported { key, file, objects: written.chunks + 1, bytes: written.bytes }, &text)
}

/// Enters an image from such a file.
///
/// # Errors
/// As [`archive::import`].
pub fn import(places: &Places, store: &Store, file: &Utf8PathBuf, pin: Option<String>) -> Result<()> {
    check_pin(pin.as_deref())?;
    let keyring = Keyring::read(&places.signing()?)?;
    let bytes = fs_err::metadata(file)?.len();
    let received = archive::import(store, keyring, file.as_std_path());
    let received = received.map_err(|e| crate::store::explain_full(e, store.root()))?;
    arrived(places, store, received, pin, 1, bytes)
}

fn check_pin(pin: Option<&str>) -> Result<()> {
    match pin.filter(|name| !crate::profile::is_label(name)) {
        None => Ok(()),
        Some(name) => Err(Refusal::new(format!("`{name}` cannot be a pin's name"), crate::profile::LABEL_RULE).into()),
    }
}

fn arrived(
    places: &Places,
    store: &Store,
    received: Received,
    pin: Option<String>,
    objects: usize,
    bytes: u64,
) -> Result<()> {
    if let Some(name) = &pin {
        store.keep(RootKind::Pin, name, &received.image, clock::now())?;
    }
    let image = received.image;
    let mut text = format!(
        "image {image} is in the store: {} entries and {} inputs are new\n",
        received.entries.len(),
        received.inputs.len()
    );
    let signed_by = match &received.standing {
        Standing::Trusted { by, .. } => Some(by.clone()),
        Standing::Stranger { .. } | Standing::Unsigned | Standing::Altered { .. } => None,
    };
    // Writing to a string cannot fail.
    let _ = match &received.standing {
        Standing::Trusted { by, .. } if by == OWN => writeln!(text, "  signed by {OWN}"),
        Standing::Trusted { by, .. } => writeln!(text, "  signed by `{by}`, which is trusted"),
        Standing::Stranger { key } => {
            writeln!(
                text,
                "  signed by the key {key}, which is not trusted here: it will not be run\n  hint: kiln trust add NAME FILE.pub"
            )
        }
        Standing::Unsigned => writeln!(text, "  signed by nobody: it will not be run\n  hint: kiln trust sign {image}"),
        Standing::Altered { what } => writeln!(text, "  not what was signed: {what}"),
    };
    if received.left_out {
        text.push_str("  its layers were left out, for their sender is not trusted here: what is built on it is made from its inputs\n");
    }
    if let Some(name) = &pin {
        let _ = writeln!(text, "  kept as pin `{name}`");
    } else if store.roots()?.iter().all(|root| root.key != image) {
        let hint = format!("hint: kiln store pin NAME {:.12}", image.to_string());
        let _ = writeln!(text, "  kept by no root, so the next collection takes it\n  {hint}");
    }
    let output = Arrived {
        key: image.to_string(),
        objects,
        bytes,
        entries: received.entries.iter().map(ToString::to_string).collect(),
        inputs: received.inputs.len(),
        layers_left_out: received.left_out,
        signed_by,
        pin,
    };
    places.print(&output, &text)
}

/// How far it is: a bar for a person, a line for every tenth for a log.
struct Shown {
    bar: Option<ProgressBar>,
    word: &'static str,
    tenth: Cell<usize>,
}

impl Shown {
    fn new(word: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, word, tenth: Cell::new(0) }
    }

    fn tell(&self, done: usize, all: usize, bytes: u64) {
        let megabytes = bytes.div_ceil(1_000_000);
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(format!("{megabytes} MB"));
            if done == all {
                bar.finish_and_clear();
            }
        } else if let Some(tenth) = (done * 10).checked_div(all).filter(|tenth| *tenth > self.tenth.get()) {
            self.tenth.set(tenth);
            log::info!("{} {done} of {all} objects, {megabytes} MB", self.word);
        }
    }
}
