//! What each call of the API does. Every request comes through [`answer`], which has the schema checked, then the privileges.

use std::collections::BTreeMap;

use kiln_firstboot::digest::Sha256Digest;
use serde_json::{Value, json};

use crate::multipart::{self, is_sound_image};
use crate::schema::{Parameters, Schema};
use crate::world::{BRIDGE, DISKS, IMAGES, NODE, POOL, SECRET, TOKEN, Vm, Work, World};

/// A request as it came in.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) verb: String,
    pub(crate) path: Vec<String>,
    pub(crate) query: Parameters,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// Status, and the body of the answer.
pub(crate) type Answer = (u16, Value);

type Done = Result<Value, Answer>;

/// An error with a message, as PVE 8.4 and later have it in the body.
fn no(status: u16, message: impl Into<String>) -> Answer {
    (status, json!({ "data": null, "message": format!("{}\n", message.into()) }))
}

/// Carries a request out, if it is one.
pub(crate) fn answer(world: &mut World, schema: &Schema, request: &Request) -> Answer {
    let wanted = format!("PVEAPIToken={TOKEN}={SECRET}");
    match request.headers.get("authorization") {
        Some(given) if *given == wanted => {}
        Some(_) => return no(401, "invalid token value!"),
        None => return no(401, "No ticket"),
    }
    let mut parameters = request.query.clone();
    let mut upload = None;
    let content_type = request.headers.get("content-type").map(String::as_str).unwrap_or_default();
    let body_not_taken = ["GET", "DELETE"].contains(&request.verb.as_str()) && !request.body.is_empty();
    if body_not_taken {
        world.violations.push(format!("{} with a body", request.verb));
        return no(501, "Unexpected content for method");
    }
    if content_type.starts_with("multipart/") {
        match multipart::parse(content_type, &request.body) {
            Ok(parsed) => {
                parameters.extend(parsed.fields.clone());
                parameters.insert("filename".into(), parsed.name.clone());
                upload = Some(parsed);
            }
            Err(what) => {
                world.violations.push(format!("upload: {what}"));
                return no(400, what);
            }
        }
    } else if request.body.len() > 512 * 1024 {
        return no(413, "for data too large");
    } else if let Err(twice) = crate::server::form(&String::from_utf8_lossy(&request.body), &mut parameters) {
        world.violations.push(format!("`{twice}` is given twice"));
        return no(400, "duplicate parameter");
    }
    let method = match schema.check(&request.verb, &request.path, &parameters) {
        Ok(method) => method,
        Err((status, errors)) => {
            world.violations.push(format!("{} /{}: {errors:?}", request.verb, request.path.join("/")));
            return (status, json!({ "data": null, "errors": errors, "message": "Parameter verification failed.\n" }));
        }
    };
    if let Some(check) = method.check
        && let Err(what) = world.permits(check, &method.parameters)
    {
        return no(403, what);
    }
    let call = Call { world, verb: &request.verb, p: method.parameters, upload };
    match call.run(method.path) {
        Ok(data) => (200, json!({ "data": data })),
        Err(answer) => answer,
    }
}

struct Call<'w> {
    world: &'w mut World,
    verb: &'w str,
    p: Parameters,
    upload: Option<multipart::Upload>,
}

impl Call<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.p.get(name).map(String::as_str)
    }

    fn need(&self, path: &str, privilege: &str) -> Result<(), Answer> {
        let granted = self.world.may(path, privilege);
        granted.then_some(()).ok_or_else(|| no(403, format!("Permission check failed ({path}, {privilege})")))
    }

    fn vmid(&self) -> u32 {
        self.p["vmid"].parse().unwrap()
    }

    fn vm(&self) -> Result<&Vm, Answer> {
        let vmid = self.vmid();
        let gone =
            || no(500, format!("Configuration file 'nodes/{}/qemu-server/{vmid}.conf' does not exist", self.p["node"]));
        self.world.vms.get(&vmid).filter(|vm| vm.node == self.p["node"]).ok_or_else(gone)
    }

    /// The machine, if it may be changed now.
    fn free_vm(&self) -> Result<&Vm, Answer> {
        let vm = self.vm()?;
        let vmid = self.vmid();
        if self.world.is_busy(vmid) {
            return Err(no(500, format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout")));
        }
        match vm.config.get("lock") {
            Some(lock) => Err(no(500, format!("VM is locked ({lock})"))),
            None => Ok(vm),
        }
    }

    fn run(self, path: &str) -> Done {
        if let Some(node) = self.get("node").filter(|n| *n != NODE && *n != "pve2") {
            return Err(no(500, format!("hostname lookup '{node}' failed")));
        }
        // Whatever a token must not set, wherever it stands.
        for key in ["args", "hookscript", "lock", "affinity", "hugepages", "keephugepages", "skiplock"] {
            if self.p.contains_key(key) {
                self.world.violations.push(format!("`{key}` is for root alone"));
                return Err(no(500, format!("only root can set '{key}' config")));
            }
        }
        match (self.verb, path) {
            ("GET", "/version") => Ok(json!({ "version": self.world.version, "release": "9.1", "repoid": "0" })),
            ("GET", "/access/permissions") => {
                let path = self.get("path").unwrap_or("/").to_owned();
                let all: BTreeMap<String, u8> = self.world.privileges(&path).into_iter().map(|p| (p, 1)).collect();
                Ok(json!({ path: all }))
            }
            ("GET", "/cluster/resources") => Ok(self.resources()),
            ("GET", "/cluster/nextid") => match self.get("vmid") {
                Some(id) if self.world.vms.contains_key(&id.parse().unwrap()) => {
                    let errors = json!({ "vmid": format!("VM {id} already exists") });
                    Err((400, json!({ "data": null, "errors": errors, "message": "Parameter verification failed.\n" })))
                }
                Some(id) => Ok(json!(id)),
                None => Ok(json!((100..).find(|id| !self.world.vms.contains_key(id)).unwrap().to_string())),
            },
            ("GET", "/nodes") => Ok(
                json!([{ "node": NODE, "status": "online", "type": "node" }, { "node": "pve2", "status": "online", "type": "node" }]),
            ),
            ("GET", "/nodes/{node}/network") => {
                let path = format!("/sdn/zones/localnetwork/{BRIDGE}");
                let seen = ["SDN.Use", "SDN.Audit"].iter().any(|p| self.world.may(&path, p));
                Ok(if seen { json!([{ "iface": BRIDGE, "type": "bridge", "active": 1 }]) } else { json!([]) })
            }
            ("GET", "/pools") => {
                let seen = self.world.may(&format!("/pool/{POOL}"), "Pool.Audit");
                Ok(if seen { json!([{ "poolid": POOL }]) } else { json!([]) })
            }
            ("GET", "/nodes/{node}/storage") => Ok(json!(
                [IMAGES, DISKS].iter().filter(|s| self.sees_storage(s)).map(|s| self.storage(s)).collect::<Vec<_>>()
            )),
            ("GET", "/nodes/{node}/storage/{storage}/status") => self.known_storage().map(|s| self.storage(&s)),
            ("GET", "/nodes/{node}/storage/{storage}/content") => self.content(),
            ("POST", "/nodes/{node}/storage/{storage}/upload") => self.take_upload(),
            ("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}") => self.remove_file(),
            ("GET", "/nodes/{node}/tasks") => Ok(self.tasks()),
            ("GET", "/nodes/{node}/tasks/{upid}/status") => {
                let task = self.task()?;
                let status = if task.exit.is_none() { "running" } else { "stopped" };
                Ok(match &task.exit {
                    Some(exit) => json!({ "upid": task.upid, "status": status, "exitstatus": exit }),
                    None => json!({ "upid": task.upid, "status": status }),
                })
            }
            ("GET", "/nodes/{node}/tasks/{upid}/log") => {
                let (start, limit) = (self.number("start", 0), self.number("limit", 50));
                let lines = self.task()?.log.iter().enumerate().skip(start).take(limit);
                Ok(lines.map(|(n, t)| json!({ "n": n + 1, "t": t })).collect())
            }
            ("POST", "/nodes/{node}/qemu") => self.create(),
            ("DELETE", "/nodes/{node}/qemu/{vmid}") => self.destroy(),
            ("GET", "/nodes/{node}/qemu/{vmid}/config") => self.config(),
            ("POST" | "PUT", "/nodes/{node}/qemu/{vmid}/config") => self.change(),
            ("GET", "/nodes/{node}/qemu/{vmid}/pending") => self.pending(),
            ("GET", "/nodes/{node}/qemu/{vmid}/snapshot") => {
                let names = self.vm()?.snapshots.iter().map(String::as_str).chain(["current"]);
                Ok(names.map(|name| json!({ "name": name, "description": "" })).collect())
            }
            ("GET", "/nodes/{node}/qemu/{vmid}/status/current") => {
                let vm = self.vm()?;
                let mut current = json!({ "vmid": self.vmid(), "status": if vm.running { "running" } else { "stopped" }, "ha": { "managed": u8::from(vm.ha) } });
                if let Some(lock) = vm.config.get("lock") {
                    current["lock"] = json!(lock);
                }
                Ok(current)
            }
            ("POST", "/nodes/{node}/qemu/{vmid}/status/start") => {
                if self.free_vm()?.running {
                    return Err(no(500, format!("VM {} already running", self.vmid())));
                }
                self.power("qmstart", true, false)
            }
            ("POST", "/nodes/{node}/qemu/{vmid}/status/shutdown") => self.power("qmshutdown", false, true),
            ("POST", "/nodes/{node}/qemu/{vmid}/status/stop") => self.power("qmstop", false, false),
            ("POST", "/nodes/{node}/qemu/{vmid}/agent/ping") => match self.vm()? {
                vm if !vm.running => Err(no(500, format!("VM {} is not running", self.vmid()))),
                vm if vm.hangs => Err(no(500, "QEMU guest agent is not running")),
                _ => Ok(json!({ "result": {} })),
            },
            (verb, path) => {
                self.world.violations.push(format!("{verb} {path} is in the schema, and this server does not do it"));
                Err(no(501, "not done here"))
            }
        }
    }

    fn number(&self, name: &str, default: usize) -> usize {
        self.get(name).map_or(default, |n| n.parse().unwrap())
    }

    fn resources(&self) -> Value {
        let seen = self.world.vms.iter().filter(|(id, _)| self.world.may(&format!("/vms/{id}"), "VM.Audit"));
        seen.map(|(id, vm)| {
            let mut entry =
                json!({ "id": format!("qemu/{id}"), "type": "qemu", "vmid": id, "node": vm.node, "status": "stopped" });
            for (name, value) in [
                ("pool", &vm.pool),
                ("tags", &vm.config.get("tags").cloned()),
                ("name", &vm.config.get("name").cloned()),
            ] {
                if let Some(value) = value {
                    entry[name] = json!(value);
                }
            }
            entry
        })
        .collect()
    }

    fn sees_storage(&self, storage: &str) -> bool {
        ["Datastore.Audit", "Datastore.AllocateSpace"].iter().any(|p| self.world.may(&format!("/storage/{storage}"), p))
    }

    fn known_storage(&self) -> Result<String, Answer> {
        let storage = self.p["storage"].clone();
        if self.world.storages.contains_key(&storage) {
            Ok(storage)
        } else {
            Err(no(500, format!("storage '{storage}' does not exist")))
        }
    }

    fn storage(&self, name: &str) -> Value {
        let storage = &self.world.storages[name];
        json!({ "storage": name, "active": 1, "enabled": 1, "content": storage.content.join(","), "avail": self.world.free(name),
            "total": storage.total, "used": self.world.used(name), "type": "dir" })
    }

    fn content(&self) -> Done {
        let storage = self.known_storage()?;
        assert_eq!(self.get("content"), Some("import"), "nothing else is listed by this server");
        let files = self.world.storages[&storage].files.iter();
        Ok(files
            .map(|(name, bytes)| json!({ "volid": format!("{storage}:import/{name}"), "size": bytes.len(), "format": "raw", "content": "import", "ctime": 1_700_000_000 }))
            .collect())
    }

    fn take_upload(self) -> Done {
        let storage = self.known_storage()?;
        let content = self.p["content"].clone();
        let Some(upload) = self.upload else {
            self.world.violations.push("an upload without a file".into());
            return Err(no(400, "no file"));
        };
        if !self.world.storages[&storage].content.contains(&content.as_str()) {
            return Err(no(500, format!("storage '{storage}' does not support '{content}' content")));
        }
        if let Err(what) = is_sound_image(&upload.name, &upload.bytes) {
            self.world.violations.push(format!("upload of {}: {what}", upload.name));
            return Err(no(400, what));
        }
        if self.p.get("checksum-algorithm").is_some_and(|a| a != "sha256") {
            return Err(no(500, "this server knows sha256 only"));
        }
        let checksum = self.p.get("checksum").cloned();
        let work = Work::Upload { storage, name: upload.name, bytes: upload.bytes, checksum };
        Ok(json!(self.world.begin("imgcopy", None, work)))
    }

    fn remove_file(self) -> Done {
        let volume = self.p["volume"].clone();
        let Some((storage, name)) = volume.split_once(":import/").map(|(s, n)| (s.to_owned(), n.to_owned())) else {
            self.world.violations.push(format!("removal of {volume}, which is no import"));
            return Err(no(500, "unable to parse volume ID"));
        };
        self.need(&format!("/storage/{storage}"), "Datastore.Allocate")?;
        Ok(json!(self.world.begin("imgdel", None, Work::RemoveFile { storage, name })))
    }

    fn tasks(&self) -> Value {
        assert_eq!(self.get("source"), Some("active"), "nothing else is asked for");
        // Those that have just ended are in the list of active ones too.
        let running = self.world.tasks.iter();
        running
            .filter(|t| self.get("vmid").is_none_or(|id| t.vmid.map(|v| v.to_string()).as_deref() == Some(id)))
            .filter(|t| self.get("typefilter").is_none_or(|kind| kind == t.kind))
            .filter(|_| self.get("userfilter").is_none_or(|user| TOKEN.contains(user)))
            .map(|t| match &t.exit {
                None => json!({ "upid": t.upid, "type": t.kind, "node": NODE, "user": TOKEN }),
                Some(exit) => json!({ "upid": t.upid, "type": t.kind, "node": NODE, "user": TOKEN, "endtime": 1_764_290_000, "status": exit }),
            })
            .collect()
    }

    fn task(&self) -> Result<&crate::world::Task, Answer> {
        self.world.tasks.iter().find(|t| t.upid == self.p["upid"]).ok_or_else(|| no(500, "unable to parse worker upid"))
    }

    /// What Proxmox checks of the keys of a configuration one by one.
    fn may_set(&mut self, path: &str, keys: &[String]) -> Result<(), Answer> {
        for key in keys {
            let privilege = match key.trim_end_matches(|c: char| c.is_ascii_digit()) {
                "cpu" | "cores" | "sockets" | "vcpus" | "numa" => "VM.Config.CPU",
                "memory" | "balloon" | "shares" => "VM.Config.Memory",
                "machine" | "scsihw" | "smbios" | "vga" | "rng" | "serial" => "VM.Config.HWType",
                "net" => "VM.Config.Network",
                "virtio" | "scsi" | "unused" | "boot" => "VM.Config.Disk",
                "agent" | "bios" | "description" | "name" | "onboot" | "ostype" | "protection" | "tags" => {
                    "VM.Config.Options"
                }
                other => {
                    self.world.violations.push(format!("`{other}` is for root alone"));
                    return Err(no(500, format!("only root can set '{other}' config")));
                }
            };
            self.need(path, privilege)?;
            if let Some(value) = self.p.get(key).cloned() {
                if crate::disks::is_slot(key)
                    && value.split([':', ',']).nth(1).is_some_and(|size| size.parse::<u64>().is_ok())
                {
                    self.need(&format!("/storage/{}", value.split(':').next().unwrap()), "Datastore.AllocateSpace")?;
                }
                if let Some(bridge) = value.split(',').find_map(|p| p.strip_prefix("bridge=")) {
                    self.need(&format!("/sdn/zones/localnetwork/{bridge}"), "SDN.Use")?;
                }
            }
        }
        Ok(())
    }

    fn create(mut self) -> Done {
        let vmid = self.vmid();
        let (pool, node) = (self.p.get("pool").cloned(), self.p["node"].clone());
        let path = pool.as_ref().map_or(format!("/vms/{vmid}"), |pool| format!("/pool/{pool}"));
        self.need(&path, "VM.Allocate")?;
        let keys: Vec<String> =
            self.p.keys().filter(|k| !["vmid", "node", "pool"].contains(&k.as_str())).cloned().collect();
        self.may_set(&path, &keys)?;
        if self.world.snatched.take_if(|id| *id == vmid).is_some() {
            let theirs = Vm { node: NODE.into(), ..Vm::default() };
            self.world.vms.insert(vmid, theirs);
        }
        if self.world.vms.contains_key(&vmid) {
            return Err(no(500, format!("unable to create VM {vmid} - VM {vmid} already exists on node '{NODE}'")));
        }
        // Until the worker is done, the machine is a lock and nothing else.
        let config = BTreeMap::from([("lock".to_owned(), "create".to_owned())]);
        self.world.vms.insert(vmid, Vm { node, config, ..Vm::default() });
        let values = self.p.clone();
        Ok(json!(self.world.begin("qmcreate", Some(vmid), Work::Create { vmid, values })))
    }

    fn destroy(self) -> Done {
        let vmid = self.vmid();
        let vm = self.free_vm()?;
        if vm.running {
            return Err(no(500, format!("VM {vmid} is running - destroy failed")));
        }
        if vm.config.get("protection").is_some_and(|p| p == "1") {
            return Err(no(500, format!("can't remove VM {vmid} - protection mode enabled")));
        }
        if vm.ha && self.get("purge") != Some("1") {
            return Err(no(500, "unable to remove, used in HA resources and purge parameter not set."));
        }
        let unreferenced = self.get("destroy-unreferenced-disks") == Some("1");
        Ok(json!(self.world.begin("qmdestroy", Some(vmid), Work::Destroy { vmid, unreferenced })))
    }

    fn config(&self) -> Done {
        let vm = self.vm()?;
        let mut config: BTreeMap<String, Value> = vm.config.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
        if self.get("current") != Some("1") {
            for (name, change) in &vm.pending {
                match change {
                    Ok(value) => drop(config.insert(name.clone(), json!(value))),
                    Err(_) => drop(config.remove(name)),
                }
            }
        }
        // A description is kept as lines of comments, and gets an end of line by that.
        if let Some(Value::String(text)) = config.get_mut("description") {
            text.push('\n');
        }
        for name in ["cores", "sockets", "balloon", "onboot"] {
            if let Some(number) = config.get(name).and_then(|v| v.as_str()?.parse::<u64>().ok()) {
                config.insert(name.into(), json!(number));
            }
        }
        config.insert("digest".into(), json!(digest(vm)));
        Ok(json!(config))
    }

    fn pending(&self) -> Done {
        let vm = self.vm()?;
        let names = vm.config.keys().chain(vm.pending.keys().filter(|n| !vm.config.contains_key(*n)));
        Ok(names
            .map(|name| {
                let mut entry = json!({ "key": name });
                if let Some(value) = vm.config.get(name) {
                    entry["value"] = json!(value);
                }
                match vm.pending.get(name) {
                    Some(Ok(value)) => entry["pending"] = json!(value),
                    Some(Err(force)) => entry["delete"] = json!(if *force { 2 } else { 1 }),
                    None => {}
                }
                entry
            })
            .collect())
    }

    fn change(mut self) -> Done {
        let vmid = self.vmid();
        let list = |text: Option<&str>| -> Vec<String> {
            text.map(|t| t.split([',', ';', ' ']).map(str::to_owned).collect()).unwrap_or_default()
        };
        let (delete, force) = (list(self.get("delete")), self.get("force") == Some("1"));
        let own = ["vmid", "node", "delete", "force", "digest", "background_delay"];
        let values: Parameters =
            self.p.iter().filter(|(n, _)| !own.contains(&n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect();
        let keys: Vec<String> = values.keys().chain(&delete).cloned().collect();
        self.may_set(&format!("/vms/{vmid}"), &keys)?;
        match self.get("digest") {
            None => self.world.violations.push(format!("a change of {vmid} without the digest of what was looked at")),
            Some(given) if given != digest(self.vm()?) => {
                return Err(no(500, "checksum missmatch (file change by other user?)"));
            }
            Some(_) => {}
        }
        self.free_vm()?;
        if self.verb == "PUT" {
            if keys.iter().any(|k| crate::disks::is_slot(k) && values.contains_key(k)) {
                self.world.violations.push("a volume is allocated within a call instead of in a task".into());
            }
            return self.world.update(vmid, values, &delete, force).map(|()| Value::Null).map_err(|what| no(500, what));
        }
        Ok(json!(self.world.begin("qmconfig", Some(vmid), Work::Config { vmid, values, delete, force })))
    }

    fn power(self, kind: &'static str, on: bool, ask: bool) -> Done {
        self.free_vm()?;
        let vmid = self.vmid();
        Ok(json!(self.world.begin(kind, Some(vmid), Work::Power { vmid, on, ask })))
    }
}

/// The digest of a configuration: 40 hex digits, as long as the real one's.
fn digest(vm: &Vm) -> String {
    let text = format!("{:?}{:?}{:?}", vm.config, vm.pending, vm.snapshots);
    Sha256Digest::of(text.as_bytes()).to_string()[..40].to_owned()
}
