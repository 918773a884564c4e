//! XML as libvirt writes it, as a tree: elements, attributes and text, and nothing else of the language.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// One element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name as written, prefix and all.
    pub name: String,
    /// Its attributes, in order, namespaces among them.
    pub attributes: Vec<(String, String)>,
    /// The elements in it.
    pub children: Vec<Element>,
    /// The text in it, without that of its children.
    pub text: String,
}

/// Why a text is not XML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the XML that libvirt writes: {0}")]
pub struct XmlError(String);

impl Element {
    /// Reads one document.
    ///
    /// # Errors
    /// When it is not well-formed, has no root, or uses what libvirt does not: entities of its own, CDATA.
    pub fn parse(text: &str) -> Result<Self, XmlError> {
        let fault = |what: &dyn std::fmt::Display| XmlError(what.to_string());
        let mut reader = Reader::from_str(text);
        // What is open, outermost first; the first holds the document.
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event().map_err(|e| fault(&e))? {
                Event::Start(start) => open.push(Self::opened(&start)?),
                Event::Empty(start) => {
                    let element = Self::opened(&start)?;
                    open.last_mut().ok_or_else(|| fault(&"an element outside of all"))?.children.push(element);
                }
                Event::End(_) => {
                    let done = open.pop().ok_or_else(|| fault(&"an end without a start"))?;
                    open.last_mut().ok_or_else(|| fault(&"an end without a start"))?.children.push(done);
                }
                Event::Text(bytes) => {
                    let text = bytes.decode().map_err(|e| fault(&e))?;
                    open.last_mut().ok_or_else(|| fault(&"text outside of all"))?.text.push_str(&text);
                }
                Event::GeneralRef(reference) => {
                    let name = reference.decode().map_err(|e| fault(&e))?;
                    let escaped = format!("&{name};");
                    let text = quick_xml::escape::unescape(&escaped).map_err(|e| fault(&e))?;
                    open.last_mut().ok_or_else(|| fault(&"text outside of all"))?.text.push_str(&text);
                }
                Event::CData(_) => return Err(fault(&"CDATA")),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
                Event::Eof => break,
            }
        }
        match (open.len(), open.pop().and_then(|document| document.children.into_iter().next())) {
            (1, Some(root)) => Ok(root),
            (_, None) => Err(fault(&"it is empty")),
            (_, Some(_)) => Err(fault(&"it ends in the middle")),
        }
    }

    fn opened(start: &BytesStart<'_>) -> Result<Self, XmlError> {
        let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|e| XmlError(e.to_string()));
        let attributes = start.attributes().map(|attribute| {
            let attribute = attribute.map_err(|e| XmlError(e.to_string()))?;
            let value = String::from_utf8(attribute.value.to_vec()).map_err(|e| XmlError(e.to_string()))?;
            let value = quick_xml::escape::unescape(&value).map_err(|e| XmlError(e.to_string()))?;
            Ok((name(attribute.key.as_ref())?, value.into_owned()))
        });
        let attributes = attributes.collect::<Result<_, XmlError>>()?;
        Ok(Self { name: name(start.name().as_ref())?, attributes, ..Self::default() })
    }

    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The elements of that name in it.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first element at the end of a path of names.
    pub fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.children.iter().find(|child| child.name == **name))
    }

    /// The text at the end of a path of names, without the space around it.
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|element| element.text.trim())
    }

    /// Every element of that name in it, however deep.
    pub fn everywhere<'a>(&'a self, name: &str) -> Vec<&'a Element> {
        let below = self.children.iter().flat_map(|child| child.everywhere(name));
        (self.name == name).then_some(self).into_iter().chain(below).collect()
    }

    /// The element `name` of a namespace that is in it, by whatever prefix: `<p:name xmlns:p='namespace'>`, as libvirt keeps metadata.
    pub fn of_namespace(&self, namespace: &str, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| {
            let (prefix, local) = child.name.split_once(':').unwrap_or(("", &child.name));
            let declared = if prefix.is_empty() { "xmlns".to_owned() } else { format!("xmlns:{prefix}") };
            local == name && child.attribute(&declared) == Some(namespace)
        })
    }

    /// Its name without the prefix.
    pub fn local_name(&self) -> &str {
        self.name.split_once(':').map_or(self.name.as_str(), |(_, local)| local)
    }
}

/// A text as it stands in XML, between tags or quotes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_elements_attributes_and_text() {
        let text = "<?xml version='1.0'?>\n<!-- c --><a x='1 &amp; &#39;2&apos;'>  <b>t &lt; u</b><b y=\"2\"/><k:n xmlns:k='urn:k' v='3'><k:r/></k:n></a>\n";
        let a = Element::parse(text).unwrap();
        assert_eq!((a.name.as_str(), a.attribute("x")), ("a", Some("1 & '2'")));
        assert_eq!(a.text_at(&["b"]), Some("t < u"));
        assert_eq!(a.all("b").count(), 2);
        let node = a.of_namespace("urn:k", "n").unwrap();
        assert_eq!((node.attribute("v"), node.children[0].local_name()), (Some("3"), "r"));
        assert_eq!(a.of_namespace("urn:other", "n"), None);
        assert_eq!(a.everywhere("b").len(), 2);
    }

    #[test]
    fn refuses_what_is_cut_off_or_no_xml() {
        for text in ["", "x", "<a>", "<a><b></a>", "</a>", "<a>&unknown;</a>", "<a x=1/>", "<a><![CDATA[x]]></a>"] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_escaped_is_read_back(text in "[ -~é]*") {
            let escaped = escape(&text);
            let element = Element::parse(&format!("<a x='{escaped}'>{escaped}</a>")).unwrap();
            proptest::prop_assert_eq!(element.attribute("x"), Some(text.as_str()));
            proptest::prop_assert_eq!(element.text, text);
        }
    }
}
