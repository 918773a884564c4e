//! Bringing inputs into the store, each checked against its pin while it streams.
//!
//! What is in the store is read once before it is used; bytes that have changed since are removed and fetched anew. A download that
//! breaks off is tried again a few times; bytes that are not the pinned ones never are, because asking again does not change a pin.
#![expect(clippy::disallowed_methods, reason = "the place where inputs are read and downloaded")]

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;

use crate::digesting;
use crate::store::{BlobState, Store};

/// Downloads at once. Archives answer one request with the full speed of a link only when it is slow; four hide the latency of small files.
const PARALLEL: usize = 4;
/// How long to wait before the second and the third try: long enough for a restarted proxy, short enough for a person who waits.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// How long a server may take to answer, or to send the next piece.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a connection may take. Short, because an alternate may be waiting behind an unreachable place.
const CONNECT: Duration = Duration::from_secs(8);

/// Something pinned by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What it is, for people: a file name.
    pub what: String,
    /// Where it may be had: a URL, or the path of a file.
    pub origin: String,
    /// Where else, in order, when the first place has it no more, cannot be reached, or has other bytes under its name.
    pub alternates: Vec<String>,
    /// Its pin.
    pub sha256: Sha256Digest,
    /// Its length, where the pin says it.
    pub bytes: Option<u64>,
}

/// What [`ensure`] had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Inputs that were fetched.
    pub count: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why an input could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The place gave other bytes than were pinned.
    #[error(
        "fetching `{origin}`: its sha256 is {found}, pinned is {expected} ({bytes} bytes{})\nhint: {}",
        wanted_bytes(.pinned_bytes),
        mismatch_hint(*.bytes, .pinned_bytes)
    )]
    Mismatch {
        /// Where it came from.
        origin: String,
        /// The pin.
        expected: Sha256Digest,
        /// What came.
        found: Sha256Digest,
        /// How much came.
        bytes: u64,
        /// How much was to come.
        pinned_bytes: Option<u64>,
    },
    /// The server answered, and not with the file.
    #[error("fetching `{origin}`: the server answers {status}{}", gone_hint(*.status))]
    Status {
        /// Where.
        origin: String,
        /// HTTP status code.
        status: u16,
    },
    /// It could not be reached, or broke off, at every try.
    #[error("fetching `{origin}`: no success in {tries} tries")]
    Unreachable {
        /// Where.
        origin: String,
        /// How often it was tried.
        tries: usize,
        /// What happened at the last try.
        source: io::Error,
    },
    /// A local file could not be read.
    #[error("reading `{origin}`")]
    Local {
        /// Where.
        origin: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Brings all `inputs` into the store and checks those that are there already by reading them. Afterwards every one of them is sound.
///
/// # Errors
/// The first [`FetchError`], in the order of the inputs, or the store's own; the other inputs are fetched all the same, so that the next
/// run has less to do.
pub fn ensure(store: &Store, inputs: &[Input]) -> Result<Fetched> {
    ensure_with(store, inputs, Tries::Several)
}

/// How often an unreachable place is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tries {
    /// Once: there is somewhere else to go.
    One,
    /// A few times, with pauses.
    Several,
}

/// [`ensure`] with a say in how often an unreachable place is tried.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_with(store: &Store, inputs: &[Input], tries: Tries) -> Result<Fetched> {
    let client = Client::default();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(inputs.len()) {
            scope.spawn(|| {
                while let (i, Some(input)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    (i, inputs.get(i))
                } {
                    let result = ensure_one(store, &client, input, tries);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    let mut fetched = Fetched::default();
    for (_, result) in results {
        if let Some(bytes) = result? {
            fetched.count += 1;
            fetched.bytes += bytes;
        }
    }
    Ok(fetched)
}

/// Longest text that [`text`] takes: GitHub's list of a hundred releases is under 2 MB.
const LONGEST_TEXT: u64 = 16 << 20;

/// A text that nobody pinned, such as a list of releases, tried as often as an input. What is done with it must bear that anybody wrote it.
///
/// # Errors
/// [`FetchError`]; when it is longer than 16 MiB or not UTF-8.
pub fn text(url: &str) -> Result<String> {
    let client = Client::default();
    let mut tries = 0;
    loop {
        tries += 1;
        let read = |body: reqwest::blocking::Response| -> Result<String> {
            let mut text = String::new();
            let limited = &mut body.take(LONGEST_TEXT + 1);
            limited.read_to_string(&mut text).map_err(|source| match source.kind() {
                io::ErrorKind::InvalidData => anyhow::anyhow!("what `{url}` gives is no text"),
                _ => FetchError::Unreachable { origin: url.to_owned(), tries, source }.into(),
            })?;
            anyhow::ensure!(text.len() as u64 <= LONGEST_TEXT, "what `{url}` gives is longer than a list should be");
            Ok(text)
        };
        let result = client.open(url).and_then(read);
        match (result, PAUSES.get(tries - 1)) {
            (Err(error), Some(pause)) if may_pass(&error) => {
                log::debug!("fetching `{url}` failed, trying again: {error:#}");
                std::thread::sleep(*pause);
            }
            (result, _) => return result.map_err(|error| count_tries(error, tries)),
        }
    }
}

/// Whether asking again may help.
fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<FetchError>() {
        Some(FetchError::Unreachable { .. }) => true,
        Some(FetchError::Status { status, .. }) => *status >= 500 || *status == 429,
        Some(FetchError::Mismatch { .. } | FetchError::Local { .. }) | None => false,
    }
}

/// Returns how many bytes were fetched, nothing if the input was there and sound.
fn ensure_one(store: &Store, client: &Client, input: &Input, allowed: Tries) -> Result<Option<u64>> {
    match store.check_blob(&input.sha256)? {
        BlobState::Sound => return Ok(None),
        BlobState::Absent => {}
        BlobState::WasCorrupt { found } => log::warn!(
            "`{}` in the store has changed (sha256 {found}, pinned {}): removed, fetching it anew",
            input.what,
            input.sha256
        ),
    }
    let mut first = None;
    let mut places = std::iter::once(&input.origin).chain(&input.alternates).peekable();
    while let Some(place) = places.next() {
        // Waiting for a place makes no sense while there is another one.
        let allowed = if places.peek().is_some() { Tries::One } else { allowed };
        match fetch_from(store, client, input, place, allowed) {
            Ok(bytes) => return Ok(Some(bytes)),
            // What went wrong here and not there does not go better elsewhere.
            Err(error) if error.downcast_ref::<FetchError>().is_none() => return Err(error),
            Err(error) => {
                if let Some(next) = places.peek() {
                    log::warn!("looking for `{}` at `{next}`, because of {error:#}", input.what);
                }
                first.get_or_insert(error);
            }
        }
    }
    Err(first.context("there is a place to look at")?)
}

/// Brings an input from one of its places.
fn fetch_from(store: &Store, client: &Client, input: &Input, place: &str, allowed: Tries) -> Result<u64> {
    let local = place.strip_prefix("file://").or_else(|| (!place.contains("://")).then_some(place));
    if let Some(path) = local {
        let local_error = |source| FetchError::Local { origin: path.to_owned(), source };
        let mut file = std::fs::File::open(path).map_err(local_error)?;
        return keep(store, input, path, &mut file, local_error);
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let unreachable = |source| FetchError::Unreachable { origin: place.to_owned(), tries, source };
        let result = client.open(place).and_then(|mut body| keep(store, input, place, &mut body, unreachable));
        let again = result.as_ref().is_err_and(may_pass);
        match PAUSES.get(tries - 1).filter(|_| again && allowed == Tries::Several) {
            Some(pause) => {
                log::debug!("fetching `{place}` failed, trying again");
                std::thread::sleep(*pause);
            }
            None => return result.map_err(|error| count_tries(error, tries)),
        }
    }
}

/// Streams `body`, which `place` gave, into the store under the input's pin.
fn keep(
    store: &Store,
    input: &Input,
    place: &str,
    body: &mut impl Read,
    broken: impl Fn(io::Error) -> FetchError,
) -> Result<u64> {
    let mut writer = store.begin_blob()?;
    // Reading and writing fail for different reasons and have different remedies, so the two must not be mixed by `io::copy`.
    let mut source = Source { body, error: None };
    let copied = digesting::copy(&mut source, &mut writer);
    if let Some(error) = source.error {
        return Err(broken(error).into());
    }
    copied.with_context(|| format!("writing `{}` into the store `{}`", input.what, store.root().display()))?;
    let bytes = writer.bytes();
    match writer.commit(&input.sha256)? {
        Ok(_) => Ok(bytes),
        Err((found, bytes)) => Err(FetchError::Mismatch {
            origin: place.to_owned(),
            expected: input.sha256,
            found,
            bytes,
            pinned_bytes: input.bytes,
        }
        .into()),
    }
}

/// A reader that remembers its own error.
struct Source<'a, R> {
    body: &'a mut R,
    error: Option<io::Error>,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer).map_err(|error| {
            let copy = io::Error::new(error.kind(), error.to_string());
            self.error = Some(error);
            copy
        })
    }
}

/// An HTTP client made at the first use: an offline build needs none.
#[derive(Default)]
struct Client(std::sync::OnceLock<reqwest::blocking::Client>);

impl Client {
    fn open(&self, url: &str) -> Result<reqwest::blocking::Response> {
        if self.0.get().is_none() {
            // Whoever comes first installs it; the second finds the same one.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client = reqwest::blocking::Client::builder()
                .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                .timeout(SILENCE)
                .build()
                .context("making an HTTP client")?;
            let _ = self.0.set(client);
        }
        let client = self.0.get().context("the client was just made")?;
        let response = client.get(url).send().map_err(|error| FetchError::Unreachable {
            origin: url.to_owned(),
            tries: 1,
            source: io::Error::other(root_cause(&error)),
        })?;
        if !response.status().is_success() {
            return Err(FetchError::Status { origin: url.to_owned(), status: response.status().as_u16() }.into());
        }
        Ok(response)
    }
}

/// What reqwest's chain of wrappers ends in; the rest repeats the URL.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn count_tries(error: anyhow::Error, tries: usize) -> anyhow::Error {
    match error.downcast::<FetchError>() {
        Ok(FetchError::Unreachable { origin, source, .. }) => FetchError::Unreachable { origin, tries, source }.into(),
        Ok(other) => other.into(),
        Err(error) => error,
    }
}

fn wanted_bytes(bytes: &Option<u64>) -> String {
    bytes.map(|n| format!(", pinned {n}")).unwrap_or_default()
}

fn mismatch_hint(bytes: u64, pinned: &Option<u64>) -> &'static str {
    if pinned.is_some_and(|pinned| bytes < pinned) {
        "the file there is cut short; try again later or from another mirror"
    } else {
        "the file there is not the one that was locked; do not use it before you know why"
    }
}

fn gone_hint(status: u16) -> &'static str {
    match status {
        404 | 410 => {
            "\nhint: the archive may have moved on to a newer version: name a place that keeps old ones in the `alternates` of its `[[archive]]`, or move the lock: `kiln lock --update`"
        }
        _ => "",
    }
}
