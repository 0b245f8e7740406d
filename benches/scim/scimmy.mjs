// One of the other sides of `cargo bench --bench scim`: SCIMMY's routers over maps in memory. The benchmark copies it to where scimmy,
// scimmy-routers and express are installed, and starts it with a port.
import { randomUUID } from "node:crypto";
import express from "express";
import SCIMMY from "scimmy";
import SCIMMYRouters from "scimmy-routers";

// One kind of resource. Ids are looked up; everything else SCIMMY filters itself, as it hands the whole list to its filter.
const keep = (kind) => {
    const kept = new Map();
    SCIMMY.Resources.declare(kind, {
        ingress: (resource, data) => {
            const id = resource.id ?? randomUUID();
            const now = new Date();
            const created = kept.get(id)?.meta.created ?? now;
            const whole = { ...JSON.parse(JSON.stringify(data)), id, meta: { created, lastModified: now } };
            kept.set(id, whole);
            return whole;
        },
        egress: (resource) => {
            if (!resource.id) return [...kept.values()];
            const found = kept.get(resource.id);
            if (!found) throw new SCIMMY.Types.Error(404, null, `${resource.id} not found`);
            return found;
        },
        degress: (resource) => {
            if (!kept.delete(resource.id)) throw new SCIMMY.Types.Error(404, null, `${resource.id} not found`);
        },
    });
};
keep(SCIMMY.Resources.User);
keep(SCIMMY.Resources.Group);

const app = express();
const handler = (request) => {
    if (request.header("Authorization") !== "Bearer token-of-the-benchmark") throw new Error("wrong token");
    return "bench";
};
app.use("/scim/v2", new SCIMMYRouters({ type: "bearer", handler }));
app.listen(Number(process.argv[2]), "127.0.0.1");
