// A SCIM service in another language by other people (scimmy-routers), with its accounts in memory. `/control` is the
// test's own way in: it empties the service, and sets when an account was created and changed.
import express from "express";
import SCIMMY from "scimmy";
import SCIMMYRouters from "scimmy-routers";

const token = process.argv[2];
let users = new Map();
let made = 0;

SCIMMY.Resources.declare(SCIMMY.Resources.User)
    .extend(SCIMMY.Schemas.EnterpriseUser)
    .ingress((resource, data) => {
        const before = users.get(resource.id);
        if (resource.id && !before) throw new SCIMMY.Types.Error(404, null, "No such account");
        const id = resource.id ?? `scimmy-${String(++made).padStart(6, "0")}`;
        const now = new Date().toISOString();
        const user = {...JSON.parse(JSON.stringify(data)), id, meta: {created: before?.meta.created ?? now, lastModified: now}};
        users.set(id, user);
        return user;
    })
    .egress((resource) => {
        if (resource.id) {
            const user = users.get(resource.id);
            if (!user) throw new SCIMMY.Types.Error(404, null, "No such account");
            return user;
        }
        const all = [...users.values()];
        return resource.filter ? resource.filter.match(all) : all;
    })
    .degress((resource) => users.delete(resource.id));

const app = express();
app.post("/control/reset", (_request, response) => {
    users = new Map();
    response.end();
});
app.post("/control/amend", express.json(), (request, response) => {
    users.get(request.body.id).meta = {created: request.body.created, lastModified: request.body.changed};
    response.end();
});
app.use("/v2", new SCIMMYRouters({
    type: "bearer",
    handler: (request) => {
        if (request.header("Authorization") !== `Bearer ${token}`) throw new Error("Not signed in");
        return "";
    },
}));

const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
