//! Users, roles and permissions: made while nobody asks for them, then enforced for a while.

use quorate_api::{authpb, etcdserverpb as pb};

use super::Generator;

/// `ghost` never exists.
const USERS: [&str; 4] = ["root", "alice", "bob", "ghost"];
const ROLES: [&str; 4] = ["root", "reader", "writer", "nothing"];

impl Generator {
    /// Who makes the next calls.
    pub(super) fn caller(&mut self) -> Option<&'static str> {
        if !self.enabled {
            return if self.chance(1, 50) { Some("ghost") } else { None };
        }
        match self.below(20) {
            0 => None,
            1 => Some("ghost"),
            2..6 => Some("alice"),
            6..9 => Some("bob"),
            _ => Some("root"),
        }
    }

    pub(super) fn auth(&mut self, invalid: bool) {
        match self.below(24) {
            0 if !self.enabled => self.enable(),
            0 | 1 if self.enabled => self.call(pb::AuthDisableRequest {}),
            0 => self.call(pb::AuthEnableRequest {}),
            1..4 => self.authenticate(invalid),
            4 | 5 => self.call(pb::AuthStatusRequest {}),
            6..13 => self.users(invalid),
            _ => self.roles(invalid),
        }
    }

    /// All it takes, and tokens for everybody.
    fn enable(&mut self) {
        self.user = None;
        for name in &USERS[..3] {
            self.call(pb::AuthUserAddRequest { name: (*name).into(), password: password(name), ..Default::default() });
        }
        self.call(pb::AuthRoleAddRequest { name: "root".into() });
        if !self.chance(1, 6) {
            self.call(pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() });
        }
        for (user, role) in [("alice", "reader"), ("bob", "writer")] {
            self.call(pb::AuthRoleAddRequest { name: role.into() });
            self.grant(role);
            self.call(pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() });
        }
        self.call(pb::AuthEnableRequest {});
        for name in &USERS[..3] {
            self.call(pb::AuthenticateRequest { name: (*name).into(), password: password(name) });
        }
    }

    fn authenticate(&mut self, invalid: bool) {
        let name = self.pick(&USERS);
        let password = if invalid { "wrong".into() } else { password(name) };
        self.call(pb::AuthenticateRequest { name: name.into(), password });
    }

    fn users(&mut self, invalid: bool) {
        let name = if invalid { self.pick(&["", "ghost", "root"]) } else { self.pick(&USERS[..3]) };
        let role = self.pick(&ROLES);
        match self.below(8) {
            0 => {
                self.call(pb::AuthUserAddRequest { name: name.into(), password: password(name), ..Default::default() })
            }
            1 | 2 => self.call(pb::AuthUserGetRequest { name: name.into() }),
            3 => self.call(pb::AuthUserListRequest {}),
            // Rarely root: nobody could disable authentication any more.
            4 if name != "root" || invalid => self.call(pb::AuthUserDeleteRequest { name: name.into() }),
            5 => {
                let request = pb::AuthUserChangePasswordRequest {
                    name: name.into(),
                    password: password(name),
                    ..Default::default()
                };
                self.call(request);
            }
            6 => self.call(pb::AuthUserRevokeRoleRequest { name: name.into(), role: role.into() }),
            _ => self.call(pb::AuthUserGrantRoleRequest { user: name.into(), role: role.into() }),
        }
    }

    fn roles(&mut self, invalid: bool) {
        let name = if invalid { self.pick(&["", "nothing", "root"]) } else { self.pick(&ROLES[..3]) };
        match self.below(8) {
            0 => self.call(pb::AuthRoleAddRequest { name: name.into() }),
            1 | 2 => self.call(pb::AuthRoleGetRequest { role: name.into() }),
            3 => self.call(pb::AuthRoleListRequest {}),
            4 => self.call(pb::AuthRoleDeleteRequest { role: name.into() }),
            5 => {
                let (key, range_end) = self.permitted();
                self.call(pb::AuthRoleRevokePermissionRequest {
                    role: name.into(),
                    key: key.into(),
                    range_end: range_end.into(),
                });
            }
            6 if invalid => {
                let perm = authpb::Permission { key: vec![].into(), range_end: vec![b'x'].into(), perm_type: 0 };
                let perm = if self.chance(1, 2) { Some(perm) } else { None };
                self.call(pb::AuthRoleGrantPermissionRequest { name: name.into(), perm });
            }
            _ => self.grant(name),
        }
    }

    fn grant(&mut self, role: &str) {
        let (key, range_end) = self.permitted();
        let perm_type = self.pick(&[0, 1, 2]);
        let perm = Some(authpb::Permission { perm_type, key: key.into(), range_end: range_end.into() });
        self.call(pb::AuthRoleGrantPermissionRequest { name: role.into(), perm });
    }

    /// Few ranges, so that a permission to revoke is often there. Each key has one end: see ARCHITECTURE.md.
    fn permitted(&mut self) -> (Vec<u8>, Vec<u8>) {
        self.pick(&[
            (b"a".to_vec(), b"b".to_vec()),
            (b"ab/".to_vec(), b"ab0".to_vec()),
            (b"b/1".to_vec(), vec![]),
            (b"b/".to_vec(), b"c".to_vec()),
            (b"c".to_vec(), vec![0]),
        ])
    }
}

fn password(name: &str) -> String {
    format!("{name}'s secret")
}
