//! The server: HTTPS/1.1 with a certificate of its own, one thread for each connection, all of them on one world.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_firstboot::digest::Sha256Digest;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::calls::{Request, answer};
use crate::schema::{Parameters, Schema};
use crate::world::{Trouble, World};

/// A host that answers at [`Server::endpoint`] until its value is dropped; its threads end with their connections.
#[derive(Debug)]
pub(crate) struct Server {
    world: Arc<Mutex<World>>,
    pub(crate) endpoint: String,
    /// The authority's certificate, PEM.
    pub(crate) authority: String,
    /// SHA-256 of the server's certificate.
    pub(crate) fingerprint: Sha256Digest,
    port: u16,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

/// An authority and a key that signs for it.
pub(crate) fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()).unwrap()
}

impl Server {
    pub(crate) fn start(world: World) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = authority();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let fingerprint = Sha256Digest::of(certificate.der());
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let (config, schema) = (Arc::new(config), Arc::new(Schema::official()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let world = Arc::new(Mutex::new(world));
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (shared, ended) = (world.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                let (world, schema, config) = (shared.clone(), schema.clone(), config.clone());
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || {
                    // A connection that ends, ends; why is the client's business.
                    let _ = serve(stream, config, &world, &schema);
                });
            }
        });
        Self {
            world,
            endpoint: format!("https://127.0.0.1:{port}"),
            authority: authority.pem(),
            fingerprint,
            port,
            stop,
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another world in place of the one that is there.
    pub(crate) fn set(&self, world: World) {
        *self.world() = world;
    }

    /// Has something go wrong, counted from now.
    pub(crate) fn arm(&self, trouble: Trouble) {
        let mut world = self.world();
        (world.trouble, world.count, world.begun, world.dead) = (Some(trouble), 0, 0, false);
    }

    /// Answers again, and has time pass.
    pub(crate) fn heal(&self) {
        let mut world = self.world();
        (world.trouble, world.count, world.begun, world.dead) = (None, 0, 0, false);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, world: &Mutex<World>, schema: &Schema) -> std::io::Result<()> {
    let lock = || world.lock().unwrap_or_else(PoisonError::into_inner);
    if lock().dead {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let Some(request) = read_request(&mut stream)? else { return Ok(()) };
        let (status, body) = {
            let mut world = lock();
            if world.dead {
                return Ok(());
            }
            world.count += 1;
            let count = world.count;
            let mut instead = None;
            match world.trouble {
                Some(Trouble::CutBefore(at)) if at == count => {
                    world.dead = true;
                    return Ok(());
                }
                Some(Trouble::Answer(at, status)) if at == count => instead = Some(status),
                Some(Trouble::Meddle(at)) if at == count => {
                    for vm in world.vms.values_mut() {
                        vm.config.insert("cpuunits".into(), "200".into());
                    }
                }
                _ => {}
            }
            world.pass();
            let (status, body) = match instead {
                Some(status) => {
                    (status, serde_json::json!({ "data": null, "message": "the server was told to say so" }))
                }
                None => answer(&mut world, schema, &request),
            };
            if world.trouble == Some(Trouble::CutAfter(count)) {
                world.dead = true;
                return Ok(());
            }
            (status, body.to_string())
        };
        let head = format!(
            "HTTP/1.1 {status} said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        stream.flush()?;
    }
}

fn read_request(stream: &mut impl std::io::BufRead) -> std::io::Result<Option<Request>> {
    let wrong = |what: &str| std::io::Error::other(what.to_owned());
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut parts = line.split_whitespace();
    let (verb, target) = (parts.next().unwrap_or_default().to_owned(), parts.next().unwrap_or_default().to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| wrong("a header without a colon"))?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    // "upload without content length header not supported"; nothing of kiln's is chunked, uploads or not.
    if headers.contains_key("transfer-encoding") {
        return Err(wrong("a chunked body"));
    }
    let length =
        headers.get("content-length").map_or(Ok(0), |n| n.parse()).map_err(|_| wrong("a length that is no number"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.strip_prefix("/api2/json/").ok_or_else(|| wrong("a path outside of the API"))?;
    let path = path.split('/').map(decode).collect();
    let mut parameters = Parameters::new();
    form(query, &mut parameters).map_err(|twice| wrong(&twice))?;
    Ok(Some(Request { verb, path, query: parameters, headers, body }))
}

/// Adds the pairs of a query or a form; a name that is given twice is an error.
pub(crate) fn form(text: &str, parameters: &mut Parameters) -> Result<(), String> {
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if parameters.insert(decode(name), decode(value)).is_some() {
            return Err(decode(name));
        }
    }
    Ok(())
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: String = [rest.next(), rest.next()].into_iter().flatten().map(char::from).collect();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
