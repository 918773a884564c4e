//! What the token may do, by Proxmox's tree of paths.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::schema::Parameters;
use crate::world::World;

impl World {
    /// Privileges on a path: its own and those of every path above it. A machine has those of its pool too.
    pub(crate) fn privileges(&self, path: &str) -> BTreeSet<String> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut paths = vec![path.to_owned()];
        let vmid = path.strip_prefix("/vms/").and_then(|id| id.parse::<u32>().ok());
        if let Some(pool) = vmid.and_then(|id| self.vms.get(&id)).and_then(|vm| vm.pool.as_ref()) {
            paths.push(format!("/pool/{pool}"));
        }
        for path in paths {
            let mut at = path.as_str();
            loop {
                found.extend(self.rights.get(if at.is_empty() { "/" } else { at }).into_iter().flatten().cloned());
                let Some((above, _)) = at.rsplit_once('/') else { break };
                at = above;
            }
        }
        found
    }

    pub(crate) fn may(&self, path: &str, privilege: &str) -> bool {
        self.privileges(path).contains(privilege)
    }

    /// Evaluates a check of the schema.
    pub(crate) fn permits(&self, check: &Value, parameters: &Parameters) -> Result<(), String> {
        let parts = check.as_array().unwrap();
        match parts[0].as_str().unwrap() {
            "perm" => {
                let mut path = parts[1].as_str().unwrap().to_owned();
                for (name, value) in parameters {
                    path = path.replace(&format!("{{{name}}}"), value);
                }
                let wanted: Vec<&str> = parts[2].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
                let any = parts.get(3).is_some_and(|p| p == "any");
                let has = |p: &&str| self.may(&path, p);
                let granted = if any { wanted.iter().any(has) } else { wanted.iter().all(has) };
                granted.then_some(()).ok_or_else(|| format!("Permission check failed ({path}, {})", wanted.join("|")))
            }
            "or" => parts[1..]
                .iter()
                .map(|c| self.permits(c, parameters))
                .find(Result::is_ok)
                .unwrap_or_else(|| Err("Permission check failed".into())),
            "and" => parts[1..].iter().try_for_each(|c| self.permits(c, parameters)),
            other => panic!("the server does not know the check `{other}`"),
        }
    }
}
