//! Support for the tests: network namespaces, a DNS server to bend, nodes that run the real agent and a real etcd.
//!
//! Everything lives in namespaces and directories of its own and is gone when its value is dropped.

pub mod bare_etcd;
pub mod certificates;
pub mod client;
pub mod cloud_image;
pub mod cluster;
pub mod crowd;
pub mod dns;
pub mod dns_script;
pub mod dns_servers;
pub mod failover_writer;
pub mod firewall;
pub mod history;
pub mod hypervisors;
pub mod imposter;
pub mod lab;
pub mod lab_writer;
pub mod libvirt_host;
pub mod linearizable;
pub mod machine;
pub mod machine_room;
pub mod membership;
pub mod netns;
pub mod node;
pub mod operator;
pub mod oracle;
pub mod places;
pub mod program;
pub mod random;
pub mod revisions;
mod root_helper;
pub mod show;
pub mod slow_wire;
pub mod volume;
pub mod wait;
pub mod wire;
pub mod workload;
