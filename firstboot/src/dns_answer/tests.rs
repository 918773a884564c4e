//! Answers good, odd and hostile.

use super::*;
use hickory_proto::rr::rdata;
use proptest::prelude::*;

const ID: u16 = 0x4b69;

fn fqdn(text: &str) -> Fqdn {
    Fqdn::parse(text).unwrap()
}

fn reply(question: &Question, edit: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(&question.encode(ID).unwrap()).unwrap();
    message.metadata.message_type = MessageType::Response;
    edit(&mut message);
    message.to_vec().unwrap()
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

#[test]
fn finds_a_pointer_behind_an_alias() {
    let question = Question::Ptr("10.0.0.7".parse().unwrap());
    let bytes = reply(&question, |m| {
        let own = m.queries[0].name().clone();
        let alias = name("7.0-7.0.0.10.in-addr.arpa.");
        m.add_answer(Record::from_rdata(own, 60, RData::CNAME(rdata::CNAME(alias.clone()))));
        m.add_answer(Record::from_rdata(alias, 60, RData::PTR(rdata::PTR(name("Etcd1.LAB.example.")))));
    });
    let want = DnsOutcome::Answers(vec![Found::Name("Etcd1.LAB.example".into())]);
    assert_eq!(question.decode(ID, &bytes), Some(Reply::Whole(want)));
}

#[test]
fn ignores_records_of_other_names_and_replies_to_other_questions() {
    let question = Question::A(fqdn("etcd1.lab.example"));
    let bytes = reply(&question, |m| {
        m.add_answer(Record::from_rdata(name("evil.example."), 60, RData::A(rdata::A("10.9.9.9".parse().unwrap()))));
    });
    assert_eq!(question.decode(ID, &bytes), Some(Reply::Whole(DnsOutcome::NoRecords)));
    assert_eq!(question.decode(ID + 1, &bytes), None);
    assert_eq!(Question::A(fqdn("etcd2.lab.example")).decode(ID, &bytes), None);
    assert_eq!(question.decode(ID, &question.encode(ID).unwrap()), None, "a query is not a reply");
}

#[test]
fn tells_every_failure_apart() {
    let question = Question::Srv(fqdn("lab.example"));
    let coded = |code| {
        let bytes = reply(&question, |m| m.metadata.response_code = code);
        question.decode(ID, &bytes)
    };
    assert_eq!(coded(ResponseCode::NXDomain), Some(Reply::Whole(DnsOutcome::NxDomain)));
    assert_eq!(coded(ResponseCode::ServFail), Some(Reply::Whole(DnsOutcome::ServFail)));
    assert_eq!(coded(ResponseCode::Refused), Some(Reply::Whole(DnsOutcome::Refused)));
    assert_eq!(coded(ResponseCode::NoError), Some(Reply::Whole(DnsOutcome::NoRecords)));
    assert!(matches!(coded(ResponseCode::NotImp), Some(Reply::Whole(DnsOutcome::Broken(_)))));
    let cut = reply(&question, |m| m.metadata.truncation = true);
    assert_eq!(question.decode(ID, &cut), Some(Reply::Truncated));
}

#[test]
fn keeps_a_bounded_number_of_records() {
    let question = Question::Srv(fqdn("lab.example"));
    let srv = |target: &str| RData::SRV(rdata::SRV::new(0, 0, 2380, name(target)));
    let bytes = reply(&question, |m| {
        let own = m.queries[0].name().clone();
        for n in 0..200 {
            m.add_answer(Record::from_rdata(own.clone(), 60, srv(&format!("etcd{n}.lab.example."))));
        }
    });
    let Some(Reply::Whole(outcome)) = question.decode(ID, &bytes) else { panic!("a whole reply") };
    assert_eq!(outcome.answers().len(), MAX_RECORDS);
}

#[test]
fn never_panics_on_cut_or_bent_bytes() {
    let question = Question::Ptr("fd00::7".parse().unwrap());
    let bytes = reply(&question, |m| {
        let own = m.queries[0].name().clone();
        m.add_answer(Record::from_rdata(own, 60, RData::PTR(rdata::PTR(name("etcd1.lab.example.")))));
    });
    for cut in 0..bytes.len() {
        question.decode(ID, &bytes[..cut]);
        let mut bent = bytes.clone();
        bent[cut] ^= 0xff;
        question.decode(ID, &bent);
    }
}

/// What an answer may cost whoever reads it, whatever came over the wire.
fn is_bounded(reply: Option<&Reply>) -> Result<(), TestCaseError> {
    // 255 bytes of a name, each written as at most four characters.
    const LONGEST: usize = 1024;
    match reply {
        None | Some(Reply::Truncated) => {}
        Some(Reply::Whole(DnsOutcome::Answers(found))) => {
            prop_assert!(!found.is_empty() && found.len() <= MAX_RECORDS);
            for one in found {
                let length = match one {
                    Found::Name(name) => name.len(),
                    Found::Service(target) => target.target.len(),
                    Found::Address(_) => 0,
                };
                prop_assert!(length <= LONGEST);
            }
        }
        Some(Reply::Whole(DnsOutcome::Broken(why))) => prop_assert!(why.len() <= 4 * LONGEST, "{why}"),
        Some(Reply::Whole(_)) => {}
    }
    Ok(())
}

fn questions() -> impl Strategy<Value = Question> {
    prop_oneof![
        any::<std::net::IpAddr>().prop_map(Question::Ptr),
        Just(Question::A(fqdn("etcd1.lab.example"))),
        Just(Question::Aaaa(fqdn("etcd1.lab.example"))),
        Just(Question::Srv(fqdn("lab.example"))),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(question in questions(), id: u16, bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        is_bounded(question.decode(id, &bytes).as_ref())?;
    }

    /// Behind the header and the question that were asked, so that the records are really read.
    #[test]
    fn arbitrary_records_behind_the_right_question_never_panic(
        question in questions(),
        counts: [u16; 3],
        code in 0_u8..16,
        rest in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let mut bytes = reply(&question, |m| m.metadata.response_code = ResponseCode::from(0, code));
        for (at, count) in [6, 8, 10].into_iter().zip(counts) {
            bytes[at..at + 2].copy_from_slice(&(count % 300).to_be_bytes());
        }
        bytes.extend(rest);
        is_bounded(question.decode(ID, &bytes).as_ref())?;
    }

    /// A right answer of many records, some of its bytes bent.
    #[test]
    fn a_bent_answer_never_panics(
        question in questions(),
        records in 0_u16..70,
        bends in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..16),
    ) {
        let mut bytes = reply(&question, |m| {
            let own = m.queries[0].name().clone();
            for n in 0..records {
                let host = name(&format!("etcd{n}.lab.example."));
                m.add_answer(Record::from_rdata(own.clone(), 60, RData::SRV(rdata::SRV::new(0, 0, 2380, host.clone()))));
                m.add_answer(Record::from_rdata(own.clone(), 60, RData::PTR(rdata::PTR(host))));
            }
        });
        for (at, byte) in bends {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        is_bounded(question.decode(ID, &bytes).as_ref())?;
    }
}
