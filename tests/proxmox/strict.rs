//! The server is as strict as the real one: it must refuse what that would refuse, or passing it means nothing.

use std::collections::BTreeMap;

use crate::multipart::{is_sound_image, parse};
use crate::schema::{Parameters, Schema};

fn check(verb: &str, path: &str, parameters: &[(&str, &str)]) -> Result<(), (u16, String)> {
    let path: Vec<String> = path.split('/').map(str::to_owned).collect();
    let parameters: Parameters = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let checked = Schema::official().check(verb, &path, &parameters).map(drop);
    checked.map_err(|(status, errors)| {
        (status, errors.into_iter().map(|(n, what)| format!("{n}: {what}")).collect::<Vec<_>>().join("; "))
    })
}

#[test]
fn requests_that_the_schema_does_not_have_are_refused() {
    let config = "nodes/pve1/qemu/100/config";
    let sound = "local-lvm:0,import-from=kiln-img:import/a.qcow2,serial=kiln-root,discard=on,iothread=1,backup=0";
    assert_eq!(check("POST", config, &[("virtio0", sound), ("digest", "ab")]), Ok(()));
    let wrong: [(&str, &str, &[(&str, &str)], u16, &str); 14] = [
        ("GET", "nodes/pve1/qemus", &[], 501, "no such path"),
        ("PATCH", config, &[], 501, "not implemented"),
        ("POST", config, &[("virtio0", "local-lvm:0,import-from=/tmp/a.qcow2")], 400, "Only root"),
        ("POST", config, &[("virtio0", "local-lvm:0,serial=")], 400, "value is empty"),
        ("POST", config, &[("virtio0", "local-lvm:0,serials=a")], 400, "serials: property is not defined"),
        ("POST", config, &[("virtio0", "local-lvm:0,discard=off")], 400, "enumeration"),
        ("POST", config, &[("virtio0", "local-lvm:0,iothread=yes")], 400, "boolean"),
        ("POST", config, &[("memroy", "1024")], 400, "property is not defined in schema"),
        ("POST", config, &[("cores", "0")], 400, "minimum value of 1"),
        ("POST", config, &[("description", "")], 400, "value is empty"),
        ("POST", config, &[("force", "1")], 400, "requires 'delete'"),
        ("POST", "nodes/pve1/qemu", &[("name", "etcd1")], 400, "vmid: property is missing"),
        ("POST", "nodes/pve1/qemu", &[("vmid", "99")], 400, "minimum value of 100"),
        ("POST", "nodes/pve1/qemu", &[("vmid", "100"), ("name", "etcd_1")], 400, "dns-name"),
    ];
    for (verb, path, parameters, status, what) in wrong {
        let (found, text) = check(verb, path, parameters).unwrap_err();
        assert!(found == status && text.contains(what), "{verb} {path} {parameters:?}: {found} {text}");
    }
}

fn upload(parts: &[(&str, &str)]) -> String {
    let parts: String = parts.iter().map(|(head, body)| format!("--b\r\n{head}\r\n\r\n{body}\r\n")).collect();
    format!("{parts}--b--\r\n")
}

#[test]
fn uploads_are_taken_apart_as_by_the_real_parser() {
    let field = |name: &str| format!("Content-Disposition: form-data; name=\"{name}\"");
    let file = "Content-Disposition: form-data; name=\"filename\"; filename=\"a b.raw\"\r\nContent-Type: x";
    let parse = |text: String| parse("multipart/form-data; boundary=b", text.as_bytes());
    let (content, late) = (field("content"), field("checksum"));
    let sound = parse(upload(&[(&content, "import"), (file, "bytes"), (&late, "never seen")])).unwrap();
    assert_eq!(sound.fields, BTreeMap::from([("content".to_owned(), "import".to_owned())]));
    assert_eq!((sound.name.as_str(), sound.bytes.as_slice()), ("a_b.raw", b"bytes".as_slice()));
    let wrong = [
        ("Content-Type: x\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"a\"", "first header"),
        ("content-disposition: form-data; name=\"filename\"; filename=\"a\"", "first header"),
        ("Content-Disposition: form-data; name=\"file\"; filename=\"a\"", "not 'filename'"),
        ("Content-Disposition: form-data; name=\"content\"\r\nContent-Type: text/plain", "more headers"),
    ];
    for (head, what) in wrong {
        let error = parse(upload(&[(head, "x")])).unwrap_err();
        assert!(error.contains(what), "{head}: {error}");
    }
    assert!(parse(upload(&[(&content, "import")])).unwrap_err().contains("without a file"));
}

#[test]
fn an_image_must_be_what_its_name_says_and_stand_alone() {
    let mut qcow2 = vec![0u8; 104];
    qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    assert_eq!(is_sound_image("kiln-a.qcow2", &qcow2), Ok(()));
    assert_eq!(is_sound_image("seed.raw", b"anything"), Ok(()));
    assert!(is_sound_image("a.qcow2", b"raw").unwrap_err().contains("does not match"));
    assert!(is_sound_image("a.img", &qcow2).unwrap_err().contains("wrong extension"));
    let mut backed = qcow2.clone();
    backed[15] = 1;
    assert!(is_sound_image("a.qcow2", &backed).unwrap_err().contains("backing file"));
    let mut apart = qcow2;
    apart[79] = 4;
    assert!(is_sound_image("a.qcow2", &apart).unwrap_err().contains("data file"));
}
