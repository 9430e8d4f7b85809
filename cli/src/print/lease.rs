//! Leases.

use quorate_api::etcdserverpb::{
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse,
};

use crate::go;
use crate::json::{self, Object};
use crate::print::{Show, Style, Text, header_json, header_members};

impl Text {
    fn lease_id(&mut self, id: i64, style: Style) {
        match style.hex {
            true => self.field("ID", format!("{id:016x}")),
            false => self.field("ID", id),
        }
    }
}

impl Show for LeaseGrantResponse {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(format!("lease {:016x} granted with TTL({}s)", self.id, self.ttl));
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = header_members(Object::new(), self.header.as_ref());
        Some(object.raw("ID", self.id).raw("TTL", self.ttl).raw("Error", json::string(&self.error)).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        out.lease_id(self.id, style);
        out.field("TTL", self.ttl);
        true
    }
}

/// A lease was revoked.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseRevoked {
    /// The lease.
    pub id: i64,
    /// The response.
    pub response: LeaseRevokeResponse,
}

impl Show for LeaseRevoked {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(format!("lease {:016x} revoked", self.id));
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(Object::new().some("header", header_json(self.response.header.as_ref())).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.response.header.as_ref(), style);
        true
    }
}

/// One renewal.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepAlive(pub LeaseKeepAliveResponse);

impl Show for KeepAlive {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(format!("lease {:016x} keepalived with TTL({})", self.0.id, self.0.ttl));
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = header_members(Object::new(), self.0.header.as_ref());
        Some(object.raw("ID", self.0.id).raw("TTL", self.0.ttl).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.0.header.as_ref(), style);
        out.lease_id(self.0.id, style);
        out.field("TTL", self.0.ttl);
        true
    }
}

/// What is left of a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeToLive {
    /// `--keys`: they are shown even if there are none.
    pub keys: bool,
    /// The response.
    pub response: LeaseTimeToLiveResponse,
}

impl Show for TimeToLive {
    fn simple(&self, _style: Style, out: &mut Text) {
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, keys, .. } = &self.response;
        if *granted_ttl == 0 && *ttl == -1 {
            return out.line(format!("lease {id:016x} already expired"));
        }
        let mut line = format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)").into_bytes();
        if self.keys {
            line.extend_from_slice(b", attached keys([");
            line.extend_from_slice(&keys.join(&b' '));
            line.extend_from_slice(b"])");
        }
        out.line(line);
    }

    fn json(&self, _style: Style) -> Option<String> {
        let keys = match self.response.keys.is_empty() {
            true => "null".to_owned(),
            false => json::list(self.response.keys.iter().map(|key| json::bytes(key))),
        };
        let object = header_members(Object::new(), self.response.header.as_ref());
        Some(
            object
                .raw("id", self.response.id)
                .raw("ttl", self.response.ttl)
                .raw("granted-ttl", self.response.granted_ttl)
                .raw("keys", keys)
                .build(),
        )
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.response.header.as_ref(), style);
        out.lease_id(self.response.id, style);
        out.field("TTL", self.response.ttl);
        out.field("GrantedTTL", self.response.granted_ttl);
        for key in &self.response.keys {
            out.field("Key", go::quote(key));
        }
        true
    }
}

impl Show for LeaseLeasesResponse {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(format!("found {} leases", self.leases.len()));
        for lease in &self.leases {
            out.line(format!("{:016x}", lease.id));
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        let leases = json::list(self.leases.iter().map(|lease| Object::new().raw("id", lease.id).build()));
        Some(header_members(Object::new(), self.header.as_ref()).raw("leases", leases).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        for lease in &self.leases {
            out.lease_id(lease.id, style);
        }
        true
    }
}
