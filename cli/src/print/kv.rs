//! Keys and values: `put`, `get`, `del`, `txn`.

use quorate_api::etcdserverpb::response_op::Response;
use quorate_api::etcdserverpb::{DeleteRangeResponse, PutResponse, RangeResponse, ResponseOp, TxnResponse};
use quorate_api::mvccpb::KeyValue;

use crate::go;
use crate::json::Object;
use crate::print::{Show, Style, Text, encode, header_json};

impl Text {
    /// A key and its value, one line each.
    pub(super) fn pair(&mut self, kv: &KeyValue, style: Style) {
        if !style.value_only {
            self.line(shown(&kv.key, style));
        }
        self.line(shown(&kv.value, style));
    }

    /// All about a key; `prefix` stands before each name.
    pub(super) fn kv(&mut self, prefix: &str, kv: &KeyValue, style: Style) {
        self.field(&format!("{prefix}Key"), go::quote(&kv.key));
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.field(&format!("{prefix}Value"), go::quote(&kv.value));
        match style.hex {
            true => self.field(&format!("{prefix}Lease"), format!("{:016x}", kv.lease)),
            false => self.field(&format!("{prefix}Lease"), kv.lease),
        }
    }
}

/// Bytes in format simple: as they are, or each as `\x66`.
pub(super) fn shown(bytes: &[u8], style: Style) -> Vec<u8> {
    match style.hex {
        true => bytes.iter().flat_map(|byte| format!("\\x{byte:02x}").into_bytes()).collect(),
        false => bytes.to_vec(),
    }
}

pub(super) fn kv_json(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .build()
}

impl Show for PutResponse {
    fn simple(&self, style: Style, out: &mut Text) {
        out.line("OK");
        if let Some(kv) = &self.prev_kv {
            out.pair(kv, style);
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = Object::new().some("header", header_json(self.header.as_ref()));
        Some(object.some("prev_kv", self.prev_kv.as_ref().map(kv_json)).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        if let Some(kv) = &self.prev_kv {
            out.kv("Prev", kv, style);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

impl Show for RangeResponse {
    fn simple(&self, style: Style, out: &mut Text) {
        for kv in &self.kvs {
            out.pair(kv, style);
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = Object::new().some("header", header_json(self.header.as_ref()));
        Some(
            object
                .list("kvs", self.kvs.iter().map(kv_json))
                .flag("more", self.more)
                .number("count", self.count)
                .build(),
        )
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        for kv in &self.kvs {
            out.kv("", kv, style);
        }
        out.field("More", self.more);
        out.field("Count", self.count);
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

impl Show for DeleteRangeResponse {
    fn simple(&self, style: Style, out: &mut Text) {
        out.line(self.deleted.to_string());
        for kv in &self.prev_kvs {
            out.pair(kv, style);
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = Object::new().some("header", header_json(self.header.as_ref())).number("deleted", self.deleted);
        Some(object.list("prev_kvs", self.prev_kvs.iter().map(kv_json)).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        out.field("Deleted", self.deleted);
        for kv in &self.prev_kvs {
            out.kv("Prev", kv, style);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

impl Show for TxnResponse {
    fn simple(&self, style: Style, out: &mut Text) {
        out.line(if self.succeeded { "SUCCESS" } else { "FAILURE" });
        for op in &self.responses {
            out.line("");
            match &op.response {
                Some(Response::ResponseRange(r)) => r.simple(style, out),
                Some(Response::ResponsePut(r)) => r.simple(style, out),
                Some(Response::ResponseDeleteRange(r)) => r.simple(style, out),
                Some(Response::ResponseTxn(r)) => r.simple(style, out),
                None => {}
            }
        }
    }

    fn json(&self, style: Style) -> Option<String> {
        let responses = self.responses.iter().map(|op| op_json(op, style));
        let object = Object::new().some("header", header_json(self.header.as_ref()));
        Some(object.flag("succeeded", self.succeeded).list("responses", responses).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        out.field("Succeeded", self.succeeded);
        for op in &self.responses {
            match &op.response {
                Some(Response::ResponseRange(r)) => r.fields(style, out),
                Some(Response::ResponsePut(r)) => r.fields(style, out),
                Some(Response::ResponseDeleteRange(r)) => r.fields(style, out),
                Some(Response::ResponseTxn(r)) => r.fields(style, out),
                None => true,
            };
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

fn op_json(op: &ResponseOp, style: Style) -> String {
    let (name, json) = match &op.response {
        Some(Response::ResponseRange(r)) => ("response_range", r.json(style)),
        Some(Response::ResponsePut(r)) => ("response_put", r.json(style)),
        Some(Response::ResponseDeleteRange(r)) => ("response_delete_range", r.json(style)),
        Some(Response::ResponseTxn(r)) => ("response_txn", r.json(style)),
        None => return r#"{"Response":null}"#.to_owned(),
    };
    Object::new().raw("Response", Object::new().some(name, json).build()).build()
}
