//! Asking the REST API: one question, one answer, with the token and over a connection that is known.
//!
//! Questions that change nothing are asked again when the host is silent or busy. What changes something is asked once: whether it was done is
//! then found out by looking.
#![expect(clippy::disallowed_methods, reason = "an edge: speaks to a host, pauses before it asks again")]

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::blocking::{Body, Client, RequestBuilder};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fault::Fault;
use super::token::Token;
use crate::fetch::root_cause;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(8);
/// How long an answer may take. The API itself gives a worker 30 s, and ten more to get a machine's lock.
const ANSWER: Duration = Duration::from_secs(60);
/// The slowest upload that is waited for: a tenth of a 10 Mbit/s line.
const SLOWEST_UPLOAD: u64 = 128 * 1024;
/// Longest answer: a cluster of thousands of machines lists them in a few MiB.
const LONGEST: u64 = 64 << 20;

/// How long the driver pauses; shorter in tests, which have no real host to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at something that runs.
    pub look: Duration,
    /// Before a question that had no answer is asked again, the first and the second time.
    pub again: [Duration; 2],
}

impl Default for Pace {
    /// A second between looks, as the web interface does; half a second and two before asking again, for a restarted `pveproxy`.
    fn default() -> Self {
        Self { look: Duration::from_secs(1), again: [Duration::from_millis(500), Duration::from_secs(2)] }
    }
}

/// Parameters of a question, by name. Nothing is ever sent empty: the API would take that for a value.
pub(super) type Parameters<'a> = &'a [(&'a str, String)];

/// The API of one host.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    endpoint: String,
    token: Token,
    pub(super) pace: Pace,
}

/// What every answer looks like.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    data: Value,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    errors: Option<BTreeMap<String, Value>>,
}

impl Api {
    /// The API at `endpoint`, `https://HOST:PORT`. Nothing is asked yet, and no proxy: hypervisors are on networks of one's own.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub(super) fn new(endpoint: &str, token: Token, tls: rustls::ClientConfig, pace: Pace) -> Result<Self> {
        // reqwest looks for the process's provider even where it is handed a configuration.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls)
            // The token goes nowhere but to the host it was given for.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .build()
            .context("making an HTTPS client")?;
        Ok(Self { client, endpoint: endpoint.trim_end_matches('/').to_owned(), token, pace })
    }

    /// Asks for something that is read.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &[&str], parameters: Parameters<'_>) -> Result<T, Fault> {
        let mut pauses = self.pace.again.iter();
        loop {
            let request = self.client.get(self.url(path, parameters));
            match self.ask("GET", path, request) {
                Err(fault) if fault.may_pass() => match pauses.next() {
                    Some(pause) => {
                        log::debug!("asking again: {fault}");
                        std::thread::sleep(*pause);
                    }
                    None => return Err(fault),
                },
                answer => {
                    let data = answer?;
                    return serde_json::from_value(data).map_err(|e| self.garbled("GET", path, &e.to_string()));
                }
            }
        }
    }

    /// Asks for something to be done.
    pub(super) fn post(&self, path: &[&str], parameters: Parameters<'_>) -> Result<Value, Fault> {
        self.ask("POST", path, form(self.client.post(self.url(path, &[])), parameters))
    }

    /// Asks for something to be changed.
    pub(super) fn put(&self, path: &[&str], parameters: Parameters<'_>) -> Result<Value, Fault> {
        self.ask("PUT", path, form(self.client.put(self.url(path, &[])), parameters))
    }

    /// Asks for something to be removed. The API takes no body with it.
    pub(super) fn delete(&self, path: &[&str], parameters: Parameters<'_>) -> Result<Value, Fault> {
        self.ask("DELETE", path, self.client.delete(self.url(path, parameters)))
    }

    /// Sends `bytes` of `body`, of that content type.
    pub(super) fn send(
        &self,
        path: &[&str],
        content_type: &str,
        body: impl Read + Send + 'static,
        bytes: u64,
    ) -> Result<Value, Fault> {
        let patience = ANSWER + Duration::from_secs(bytes / SLOWEST_UPLOAD);
        let request = self
            .client
            .post(self.url(path, &[]))
            .header(CONTENT_TYPE, content_type)
            .header(CONTENT_LENGTH, bytes)
            .timeout(patience)
            .body(Body::sized(body, bytes));
        self.ask("POST", path, request)
    }

    /// An error for the operator.
    pub(super) fn error(&self, fault: Fault) -> anyhow::Error {
        fault.into_error(self.token.user())
    }

    /// The token's user and its full id.
    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    fn url(&self, path: &[&str], query: Parameters<'_>) -> String {
        let path: String = path.iter().map(|part| format!("/{}", encode(part))).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", pairs(query)) };
        format!("{}/api2/json{path}{query}", self.endpoint)
    }

    fn ask(&self, verb: &str, path: &[&str], request: RequestBuilder) -> Result<Value, Fault> {
        let silent =
            |cause: String| Fault::Silent { endpoint: self.endpoint.clone(), question: question(verb, path), cause };
        let mut header = HeaderValue::from_str(&self.token.header()).map_err(|e| silent(e.to_string()))?;
        header.set_sensitive(true);
        let response = request.header(AUTHORIZATION, header).send().map_err(|e| silent(root_cause(&e)))?;
        let status = response.status();
        let mut body = Vec::new();
        response.take(LONGEST).read_to_end(&mut body).map_err(|e| silent(e.to_string()))?;
        let envelope: Option<Envelope> = serde_json::from_slice(&body).ok();
        let said =
            envelope.as_ref().and_then(|e| e.message.clone()).map(|m| m.trim().to_owned()).filter(|m| !m.is_empty());
        // Some errors come as a success that holds nothing but a message.
        let nothing_but_a_message = said.is_some() && envelope.as_ref().is_some_and(|e| e.data.is_null());
        if !status.is_success() || nothing_but_a_message {
            let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let errors = envelope.and_then(|e| e.errors).unwrap_or_default();
            return Err(Fault::Status {
                endpoint: self.endpoint.clone(),
                question: question(verb, path),
                status: status.as_u16(),
                message: said.unwrap_or_else(|| "no reason given".into()),
                errors: errors.into_iter().map(|(name, what)| (name, text(what))).collect(),
            });
        }
        match envelope {
            Some(envelope) => Ok(envelope.data),
            None => Err(self.garbled(verb, path, "it is not JSON")),
        }
    }

    fn garbled(&self, verb: &str, path: &[&str], cause: &str) -> Fault {
        let (endpoint, question) = (self.endpoint.clone(), question(verb, path));
        Fault::Garbled { endpoint, question, cause: cause.to_owned() }
    }
}

fn form(request: RequestBuilder, parameters: Parameters<'_>) -> RequestBuilder {
    request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(pairs(parameters))
}

fn question(verb: &str, path: &[&str]) -> String {
    format!("{verb} /{}", path.join("/"))
}

fn pairs(parameters: Parameters<'_>) -> String {
    let pairs: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}

/// Percent-encodes all but the unreserved characters of RFC 3986: right in a path, a query and a form alike.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_what_a_upid_and_a_disk_are_made_of() {
        assert_eq!(encode("UPID:pve1:0001:kiln@pve!kiln:"), "UPID%3Apve1%3A0001%3Akiln%40pve%21kiln%3A");
        assert_eq!(
            pairs(&[("virtio0", "a:0,import-from=b c".into()), ("x", "ä+".into())]),
            "virtio0=a%3A0%2Cimport-from%3Db%20c&x=%C3%A4%2B"
        );
    }
}
