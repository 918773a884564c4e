//! Images go through a bucket of moto, an S3 server that is not ours and checks every signature against the users it knows.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and a server")]

#[expect(dead_code, reason = "what other tests need of it")]
mod fixture;
#[path = "fixture/image.rs"]
mod image;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fixture::{Project, text};

/// What is installed, and what its mark is called.
const MOTO: &str = "moto[server]==5.2.5";
/// How long the server may take to listen: it is Python, and imports half of AWS.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes a user who may do anything with S3, a key for him, and a bucket: four actions, after which the server lets nobody in without a signature.
const SETUP: &str = r#"
import boto3, json, sys
def client(name):
    return boto3.client(name, endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
iam = client("iam")
iam.create_user(UserName="kiln")
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam.put_user_policy(UserName="kiln", PolicyName="s3", PolicyDocument=json.dumps(policy))
key = iam.create_access_key(UserName="kiln")["AccessKey"]
client("s3").create_bucket(Bucket="images")
print(key["AccessKeyId"], key["SecretAccessKey"])
"#;

struct Server {
    child: Child,
    url: String,
    id: String,
    secret: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, if it cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &Path, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{}: {}", program.display(), text(&output));
    output
}

/// A Python with moto, made once in the build directory.
fn python() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/moto");
    let (python, done) = (dir.join("bin/python"), dir.join(MOTO));
    if !done.exists() {
        // What an interrupted run left may be half.
        let _ = std::fs::remove_dir_all(&dir);
        run(Path::new("python3"), &["-m", "venv", dir.to_str().unwrap()]);
        run(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", MOTO]);
        std::fs::write(done, "").unwrap();
    }
    python
}

impl Server {
    fn start() -> Self {
        let python = python();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(python.with_file_name("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "4")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let mut server = Self { child, url, id: String::new(), secret: String::new() };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < PATIENCE && server.child.try_wait().unwrap().is_none(), "moto does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        let keys = String::from_utf8(run(&python, &["-c", SETUP, &server.url]).stdout).unwrap();
        let (id, secret) = keys.trim().split_once(' ').unwrap();
        (server.id, server.secret) = (id.to_owned(), secret.to_owned());
        server
    }

    fn kiln(&self, project: &Project, secret: &str, args: &[&str]) -> Output {
        let mut command = project.command(args);
        command
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_ACCESS_KEY_ID", &self.id)
            .env("AWS_SECRET_ACCESS_KEY", secret);
        command.output().unwrap()
    }
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
#[ignore = "needs python3-venv and a package index: tests/run"]
fn a_bucket_takes_an_image_from_who_may_and_gives_it_back_whole() {
    let server = Server::start();
    let (project, key) = Project::with_image();
    let (key, url) = (key.to_string(), "s3://images/some/prefix");
    let there = project.at("there");
    let push = ["push", "t", url, "--json"];
    let pull = ["pull", &key, url, "--json", "--store", there.to_str().unwrap()];

    let output = server.kiln(&project, "not the secret", &push);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    assert!(text(&output).contains("does not let us"), "{}", text(&output));

    let first = json(&server.kiln(&project, &server.secret, &push));
    assert_eq!(first["sent"], first["objects"]);
    let again = json(&server.kiln(&project, &server.secret, &push));
    assert_eq!(again["sent"].as_u64(), Some(1));

    let output = server.kiln(&project, "not the secret", &pull);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    let pulled = json(&server.kiln(&project, &server.secret, &pull));
    assert_eq!((&pulled["objects"], pulled["entries"].as_array().unwrap().len()), (&first["objects"], 7));
    let sound = server.kiln(&project, &server.secret, &["store", "verify", "--store", there.to_str().unwrap()]);
    assert!(sound.status.success(), "{}", text(&sound));

    // Keys from a file, as all tools of AWS have them.
    let credentials = project.at("credentials");
    let section = format!("[work]\naws_access_key_id = {}\naws_secret_access_key = {}\n", server.id, server.secret);
    std::fs::write(&credentials, section).unwrap();
    std::fs::remove_dir_all(&there).unwrap();
    let mut command = project.command(&pull);
    command.env("AWS_SHARED_CREDENTIALS_FILE", &credentials).env("AWS_PROFILE", "work");
    let pulled = json(&command.env("AWS_ENDPOINT_URL", &server.url).output().unwrap());
    assert_eq!(pulled["objects"], first["objects"]);
}
