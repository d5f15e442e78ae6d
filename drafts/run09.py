"""run a percent file in one IPython shell: text, seconds per cell, images to /tmp/nb2_out"""
import ast, linecache, traceback, base64, io, os, re, sys, time, html
os.environ["COURSE_HOME"]="/tmp/nb2_home"
from pathlib import Path
src=Path(sys.argv[1]).read_text()
only=sys.argv[2].split(",") if len(sys.argv)>2 else None   # sections to show images of
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.displaypub import CapturingDisplayPublisher
shell=InteractiveShell.instance()
pub=CapturingDisplayPublisher(); shell.display_pub=pub
from IPython.core.displayhook import CapturingDisplayHook
import course_lib.classroom as room, course_lib.classroom.exercise as ex
import course_lib.checking as checking
real=room.exercise
def exercise(id):
    try: return real(id)
    except Exception as e:
        if os.environ.get("ALLREAL"): raise
        return lambda f: f
room.exercise=exercise
from PIL import Image
cells=re.split(r"^# %%", src, flags=re.M)[1:]
ns={"__name__":"__main__"}; section="0"; times={}; n=0; bad=[]
keep=None
if os.environ.get("SECTIONS"):
    keep=os.environ["SECTIONS"].split(",")
for i,c in enumerate(cells):
    head,_,body=c.partition("\n")
    if "[markdown]" in head:
        m=re.search(r"^# ## (\d+)",body,re.M)
        if m: section=m[1]
        continue
    if keep and section not in keep: continue
    lines=[l for l in body.rstrip().splitlines()]
    code=[l for l in lines if l.strip() and not l.strip().startswith("#")]
    if len(code)>25 and "@exercise" not in body: print(f"!! cell {i} section {section}: {len(code)} code lines")
    for l in lines:
        if len(l)>88: print("!! long",len(l),l)
    out=[]
    pub.outputs.clear(); t=time.time(); tc=time.process_time()
    old=sys.stdout
    err=None
    try:
        tree=ast.parse(body); last=None
        if tree.body and isinstance(tree.body[-1],ast.Expr): last=ast.Expression(tree.body.pop().value)
        src_name=f"<cell {i}>"; linecache.cache[src_name]=(len(body),None,body.splitlines(True),src_name)
        exec(compile(tree,src_name,"exec"),ns)
        if last is not None:
            v=eval(compile(last,src_name,"eval"),ns)
            if v is not None and type(v).__name__ in ("Table","Scorecard"): out.append({"text/html":v._repr_html_()})
    except Exception as e: err=e; traceback.print_exc(limit=-3)
    dt=time.time()-t; dc=time.process_time()-tc
    times.setdefault(section,[0,0]); times[section][0]+=dt; times[section][1]+=dc
    print(f"--- [{section}] cell {i} {head.strip()} {dt:.1f}s wall {dc:.1f}s cpu: {code[0][:60] if code else ''}", flush=True)
    if err:
        bad.append((section,i)); print("FAILED", err)
        if os.environ.get("STOP"): break
    for o in list(pub.outputs)+[{"data":d} for d in out]:
        data=o["data"] if "data" in o else o
        h=data.get("text/html","") or ""
        p=data.get("text/plain","")
        if "base64" not in h and h: print("   html:", re.sub(r"<style.*?</style>|<[^>]+>"," ",h,flags=re.S).replace("\n"," ")[:900])
        elif p: print("   plain:", str(p)[:300])
        h2=h.split("<script")[0]
        for al in re.findall(r'role="alert"[^>]*>(.*?)</p>',h2): print("   ALERT",al)
        for b in re.findall(r'data:image/webp;base64,([^"]+)',h2):
            n+=1; Image.open(io.BytesIO(base64.b64decode(b))).convert("RGB").save(f"/tmp/nb2_out/s{section}_{i:03}_{n}.png")
            print("   image",f"/tmp/nb2_out/s{section}_{i:03}_{n}.png", "html KB", len(h)//1000)
print({k:(round(a,1),round(b,1)) for k,(a,b) in times.items()}, "sum", round(sum(a for a,b in times.values()),1), round(sum(b for a,b in times.values()),1)); print("bad",bad)
