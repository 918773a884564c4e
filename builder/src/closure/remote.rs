//! Closures in a directory, behind a web server, or in a bucket of an S3-compatible storage.
//!
//! What is there is not sent again, and what is here is not fetched again. Objects have the names of what is in them, and a closure's
//! document is put last, so two that push the same at once do no harm, and an interrupted push is gone on with by the next.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_firstboot::digest::Sha256Digest;
use object_store::aws::AmazonS3Builder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Name;
use object_store::{BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt as _, RetryConfig};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::Extent;
use super::document::{Closure, MAX_DOCUMENT};
use super::incoming::{Incoming, Received};
use super::outgoing::Outgoing;
use crate::exit::{Refusal, TryAgain};
use crate::store::Store;
use crate::trust::Keyring;
use crate::trust::signing_key::SigningKey;

/// Requests at once: hides some 20 ms of latency behind each other without holding more than a few MB.
const PARALLEL: usize = 8;
/// How often a request that failed is tried again, and for how long in all. What is gone for longer is gone on with by the next run.
const RETRIES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may be silent in one request, of which none is longer than a MiB.
const SILENCE: Duration = Duration::from_secs(60);

/// What S3 wants to know, from the environment or the files that all tools of AWS read.
#[derive(Clone, Default)]
pub struct S3Access {
    /// Where the storage is, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Who asks; nobody asks without a signature.
    pub credentials: Option<Credentials>,
}

/// A pair of keys.
#[derive(Clone)]
pub struct Credentials {
    /// The public one.
    pub id: String,
    /// The secret one.
    pub secret: Zeroizing<String>,
    /// For a session that ends.
    pub token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for S3Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Access")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A place where closures are.
#[derive(Debug)]
pub struct Remote {
    url: String,
    objects: Arc<dyn ObjectStore>,
    prefix: Name,
    runtime: tokio::runtime::Runtime,
}

/// What a push did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sent {
    /// Objects that the closure has.
    pub objects: usize,
    /// Objects that were sent; the others were there.
    pub sent: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What a pull did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Objects that were fetched.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What came of them.
    pub received: Received,
}

/// Told after every object: how many of how many are done, and the bytes of those.
pub type Progress<'a> = &'a dyn Fn(usize, usize, u64);

impl Remote {
    /// The place a URL names: `file:///DIRECTORY`, `http://HOST/PATH`, `https://HOST/PATH` or `s3://BUCKET/PREFIX`.
    ///
    /// # Errors
    /// A [`Refusal`] when it names none; when a directory to pull from is not there.
    pub fn open(url: &str, s3: &S3Access) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = url.trim_end_matches('/').to_owned();
        let opening = || format!("opening `{url}`");
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(200),
                max_backoff: Duration::from_secs(5),
                base: 2.0,
            },
            max_retries: RETRIES,
            retry_timeout: PATIENCE,
        };
        let plain = url.starts_with("http://") || s3.endpoint.as_ref().is_some_and(|e| e.starts_with("http://"));
        let client = ClientOptions::new()
            .with_allow_http(plain)
            .with_timeout(SILENCE)
            .with_user_agent(object_store::HeaderValue::from_static("kiln"));
        let (objects, prefix): (Arc<dyn ObjectStore>, _) = match url.split_once("://") {
            Some(("file", path)) => {
                ensure!(path.starts_with('/'), "`{url}` names no directory\nhint: file:///DIRECTORY");
                fs_err::create_dir_all(path)?;
                let files = LocalFileSystem::new_with_prefix(Path::new(path)).with_context(opening)?.with_fsync(true);
                (Arc::new(files), Name::default())
            }
            Some(("http" | "https", _)) => {
                let http = HttpBuilder::new().with_url(&url).with_client_options(client).with_retry(retry);
                (Arc::new(http.build().with_context(opening)?), Name::default())
            }
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(s3.region.as_deref().unwrap_or("us-east-1"))
                    .with_client_options(client)
                    .with_retry(retry);
                if let Some(endpoint) = &s3.endpoint {
                    builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
                }
                builder = match &s3.credentials {
                    // Without: else the metadata service of a cloud would be asked, which most machines do not have.
                    None => builder.with_skip_signature(true),
                    Some(Credentials { id, secret, token }) => {
                        let keys = builder.with_access_key_id(id).with_secret_access_key(secret.as_str());
                        token.iter().fold(keys, |keys, token| keys.with_token(token.as_str()))
                    }
                };
                let prefix = Name::parse(prefix).with_context(opening)?;
                (Arc::new(builder.build().with_context(opening)?), prefix)
            }
            _ => {
                let remedy = "file:///DIRECTORY, http://HOST/PATH, https://HOST/PATH or s3://BUCKET/PREFIX";
                return Err(Refusal::new(format!("`{url}` is no place for images"), remedy).into());
            }
        };
        Ok(Self { url, objects, prefix, runtime })
    }

    fn name(&self, parts: &[&str]) -> Name {
        parts.iter().fold(self.prefix.clone(), |name, part| name.join(*part))
    }

    fn chunk(&self, digest: &Sha256Digest) -> Name {
        let text = digest.to_string();
        self.name(&["chunks", &text[..2], &text])
    }

    fn document(&self, image: &Sha256Digest, extent: Extent) -> Name {
        match extent {
            Extent::Whole => self.name(&["closures", &format!("{image}.closure")]),
            Extent::Image => self.name(&["closures", &format!("{image}.image.closure")]),
        }
    }

    /// Sends a closure; what is there at its length is not sent again, unless `again`.
    ///
    /// # Errors
    /// [`TryAgain`] when the place cannot be reached; when it does not take something. What it has taken stays and is not sent again.
    pub fn push(
        &self,
        outgoing: &Outgoing,
        extent: Extent,
        key: &SigningKey,
        again: bool,
        progress: Progress<'_>,
    ) -> Result<Sent> {
        let chunks = outgoing.closure.chunks();
        let mut sent = Sent { objects: chunks.len() + 1, ..Sent::default() };
        self.runtime.block_on(async {
            let mut tasks: JoinSet<Result<Option<u64>>> = JoinSet::new();
            let (mut next, mut done, mut passed, mut failed) = (chunks.iter(), 0, 0, None);
            loop {
                while failed.is_none()
                    && tasks.len() < PARALLEL
                    && let Some((digest, bytes)) = next.next()
                {
                    let (objects, url) = (Arc::clone(&self.objects), self.url.clone());
                    let (name, length, chunk) = (self.chunk(digest), *bytes, outgoing.read(digest)?);
                    passed += length;
                    tasks.spawn(async move {
                        if !again && has(&*objects, &url, &name, length).await? {
                            return Ok(None);
                        }
                        objects.put(&name, chunk.into()).await.map_err(|error| explain(&url, &name, error))?;
                        Ok(Some(length))
                    });
                }
                let Some(ended) = tasks.join_next().await else { break };
                match ended.context("sending")? {
                    Ok(length) => {
                        sent.sent += usize::from(length.is_some());
                        sent.bytes += length.unwrap_or(0);
                    }
                    // What is under way is let arrive.
                    Err(error) => failed = failed.or(Some(error)),
                }
                done += 1;
                progress(done, chunks.len(), passed);
            }
            if let Some(error) = failed {
                return Err(error);
            }
            let (name, document) = (self.document(&outgoing.closure.image, extent), outgoing.document(key)?);
            // Always: it is small, and may have been another's.
            let length = document.len() as u64;
            self.objects.put(&name, document.into()).await.map_err(|error| explain(&self.url, &name, error))?;
            sent.sent += 1;
            sent.bytes += length;
            anyhow::Ok(())
        })?;
        Ok(sent)
    }

    /// Fetches the closure of an image.
    ///
    /// # Errors
    /// [`TryAgain`] when the place cannot be reached; a [`Refusal`] when it has no such image, or the closure is not what it should be; when an object
    /// is cut short or has other bytes than its name says. What has come and is sound is kept for the next try.
    pub fn pull(
        &self,
        store: &Store,
        keyring: Keyring,
        image: &Sha256Digest,
        extent: Extent,
        progress: Progress<'_>,
    ) -> Result<Pulled> {
        let (document, name) = self.runtime.block_on(self.find(image, extent))?;
        let refuse = |what: String| {
            Refusal::new(
                format!("`{}/{name}` was refused: {what}", self.url),
                "whoever pushed it can put it right: kiln push --again",
            )
        };
        let signed = Closure::parse(&document).map_err(|error| refuse(format!("{error:#}")))?;
        if signed.closure.image != *image {
            return Err(refuse(format!("it is the closure of {}", signed.closure.image)).into());
        }
        let incoming = Incoming::begin(store, signed, keyring)?;
        let wanted = incoming.wanted();
        let mut fetched = 0;
        self.runtime.block_on(async {
            let mut tasks: JoinSet<Result<(Sha256Digest, Vec<u8>)>> = JoinSet::new();
            let (mut next, mut done, mut failed) = (wanted.iter(), 0, None);
            loop {
                while failed.is_none()
                    && tasks.len() < PARALLEL
                    && let Some((digest, bytes)) = next.next()
                {
                    let (objects, url) = (Arc::clone(&self.objects), self.url.clone());
                    let (name, digest, length) = (self.chunk(digest), *digest, *bytes);
                    tasks.spawn(async move { Ok((digest, fetch(&*objects, &url, &name, length).await?)) });
                }
                let Some(ended) = tasks.join_next().await else { break };
                let put = ended.context("fetching")?.and_then(|(digest, bytes)| {
                    let put = incoming.put(&digest, &bytes);
                    put.map_err(|error| refuse_object(&self.url, &self.chunk(&digest), &format!("{error:#}")))?;
                    Ok(bytes.len() as u64)
                });
                match put {
                    Ok(bytes) => fetched += bytes,
                    // What is under way is kept.
                    Err(error) => failed = failed.or(Some(error)),
                }
                done += 1;
                progress(done, wanted.len(), fetched);
            }
            failed.map_or(Ok(()), Err)
        })?;
        let (objects, bytes) = (wanted.len() + 1, fetched + document.len() as u64);
        Ok(Pulled { objects, bytes, received: incoming.finish()? })
    }

    /// The document of an image: the whole closure's, else, if that will do, the image's alone.
    async fn find(&self, image: &Sha256Digest, extent: Extent) -> Result<(Vec<u8>, Name)> {
        let names = match extent {
            Extent::Whole => vec![self.document(image, Extent::Whole)],
            Extent::Image => vec![self.document(image, Extent::Image), self.document(image, Extent::Whole)],
        };
        for name in names {
            let found = match self.objects.get(&name).await {
                Err(Error::NotFound { .. }) => continue,
                other => other.map_err(|error| explain(&self.url, &name, error))?,
            };
            ensure!(
                found.meta.size <= MAX_DOCUMENT,
                "`{}/{name}` has {} bytes, more than any closure",
                self.url,
                found.meta.size
            );
            let bytes = found.bytes().await.map_err(|error| explain(&self.url, &name, error))?;
            return Ok((bytes.to_vec(), name));
        }
        let alone = if extent == Extent::Whole { "; or if only the image was pushed: --image-only" } else { "" };
        Err(Refusal::new(
            format!("there is no image {image} at `{}`", self.url),
            format!("push it from where it was built: kiln push{alone}"),
        )
        .into())
    }
}

async fn has(objects: &dyn ObjectStore, url: &str, name: &Name, length: u64) -> Result<bool> {
    match objects.head(name).await {
        Ok(found) => Ok(found.size == length),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(explain(url, name, error)),
    }
}

async fn fetch(objects: &dyn ObjectStore, url: &str, name: &Name, length: u64) -> Result<Vec<u8>> {
    let found = match objects.get(name).await {
        Err(Error::NotFound { .. }) => return Err(refuse_object(url, name, "it is not there")),
        other => other.map_err(|error| explain(url, name, error))?,
    };
    if found.meta.size != length {
        return Err(refuse_object(url, name, &format!("it has {} bytes, not {length}", found.meta.size)));
    }
    Ok(found.bytes().await.map_err(|error| explain(url, name, error))?.to_vec())
}

fn refuse_object(url: &str, name: &Name, what: &str) -> anyhow::Error {
    let remedy = "whoever pushed it can put it right: kiln push --again; what has come is kept, and the same command goes on from there";
    Refusal::new(format!("`{url}/{name}` was refused: {what}"), remedy).into()
}

/// What a request's error means to a person.
fn explain(url: &str, name: &Name, error: Error) -> anyhow::Error {
    let context = format!("asking for `{url}/{name}`");
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Refusal::new(
            format!("`{url}` does not let us: {error}"),
            "credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from AWS_PROFILE's in ~/.aws/credentials",
        )
        .into(),
        Error::Generic { .. } if unreachable(&error) => anyhow::Error::new(error)
            .context(TryAgain("it cannot be reached; what is done is kept, and the same command goes on from there".into()))
            .context(context),
        error => anyhow::Error::new(error).context(context),
    }
}

/// Whether the cause is a connection, and not an answer.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<std::io::Error>() || error.is::<reqwest::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}
