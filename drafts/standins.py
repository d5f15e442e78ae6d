"""Stand-in checkpoints and results, in this worktree only, never committed."""
import json, shutil, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from course_lib.training.store import STORE, load_checkpoint
from course_lib.training.recipe import Recipe
from course_lib.training import find_recipe
import course_lib.training.store as store
STAND = Path("data/STANDINS"); names=[]
def put(recipe, model, record=None):
    names.append(recipe.name)
    prov={"recipe":recipe.fields(),"steps":recipe.steps,"seconds":1.0,"device":"stand-in","precision":"float32","torch":torch.__version__,"course":"x","metrics":{}}
    (STORE.checkpoints/f"{recipe.name}.safetensors").write_bytes(STORE.encode(recipe,model,prov))
    if record is not None: res(recipe, record)
def res(recipe, measured):
    from numbers import Real
    names.append(recipe.name)
    metrics={k:float(v) for k,v in measured.items() if isinstance(v,Real)}
    rec={"name":recipe.name,"metrics":metrics,"curve":{"step":list(range(0,1000,20)),"model":[2/(1+i/5)+0.1 for i in range(50)]},"details":{k:v for k,v in measured.items() if k not in metrics},
      "provenance":{"recipe":recipe.fields(),"steps":recipe.steps,"seconds":100.0,"device":"stand-in","metrics":metrics}}
    (STORE.results/f"{recipe.name}.json").write_text(json.dumps(rec))
from course_lib.training.recipes import cogvideox as C, cogvideox_uses as U
one=find_recipe("cogvideox"); torch.manual_seed(0); model=one.untrained()
for p in model.parameters():
    if float(p.abs().sum())==0: torch.nn.init.normal_(p,std=.02)
t0=time.process_time(); measured=replace(one,samples=16).measure(model); print("measure 16",time.process_time()-t0); print({k:(v if not isinstance(v,list) else len(v)) for k,v in measured.items()})
json.dump(measured, open("/tmp/nb2_measured.json","w"))
put(one,model,measured); put(find_recipe("cogvideox-world"),model,measured)
import random
for r in C.RECIPES+U.RECIPES:
    if r.name in names: continue
    random.seed(hash(r.name)); other={}
    m2=measured
    if hasattr(r,"packed"): m2={**measured, **{f"loss of {n}":.3 for n in (1,2,3,5)}, **{f"losses of {n}":[.3+.01*random.random() for _ in range(16)] for n in (1,2,3,5)}}
    for k,v in m2.items():
        other[k]=v*(1+.1*random.random()) if isinstance(v,float) else v
    if r.name=="cogvideox-image":
        put(r,r.untrained()); names.append(r.name)
        full={}
        for pre in ("","held ","rebuilt ","text alone "):
            full|={f"{pre}{k}":v for k,v in measured.items() if "loss" not in k and "guidance" not in k}
            full|={f"{pre}first frame psnr":20.0,f"{pre}psnr":18.0,f"{pre}psnr by frame":[20-i/2 for i in range(17)]}
        res(r,full)
    else: res(r,other)
print(names)
