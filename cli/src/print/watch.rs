//! Events of `watch`.

use quorate_api::etcdserverpb::WatchResponse;
use quorate_api::mvccpb::Event;
use quorate_api::mvccpb::event::EventType;

use crate::json::{self, Object};
use crate::print::kv::{kv_json, shown};
use crate::print::{Show, Style, Text, encode, header_members};

/// A watch response.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchEvents(pub WatchResponse);

/// `PUT` or `DELETE`.
pub(crate) fn type_name(event: &Event) -> &'static str {
    match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    }
}

impl Show for WatchEvents {
    fn simple(&self, style: Style, out: &mut Text) {
        for event in &self.0.events {
            out.line(type_name(event));
            if let Some(kv) = &event.prev_kv {
                out.pair(kv, style);
            }
            let kv = event.kv.clone().unwrap_or_default();
            out.line(shown(&kv.key, style));
            out.line(shown(&kv.value, style));
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        let WatchEvents(r) = self;
        let events = match r.events.is_empty() {
            true => "null".to_owned(),
            false => json::list(r.events.iter().map(event_json)),
        };
        let object = Object::new()
            .raw("Header", header_members(Object::new(), r.header.as_ref()).build())
            .raw("Events", events)
            .raw("CompactRevision", r.compact_revision)
            .raw("Canceled", r.canceled)
            .raw("Created", r.created)
            .raw("CancelReason", json::string(&r.cancel_reason));
        Some(object.build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.0.header.as_ref(), style);
        for event in &self.0.events {
            out.field("Type", type_name(event));
            if let Some(kv) = &event.prev_kv {
                out.kv("Prev", kv, style);
            }
            out.kv("", &event.kv.clone().unwrap_or_default(), style);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(&self.0)
    }
}

fn event_json(event: &Event) -> String {
    Object::new()
        .number("type", event.r#type)
        .some("kv", event.kv.as_ref().map(kv_json))
        .some("prev_kv", event.prev_kv.as_ref().map(kv_json))
        .build()
}
