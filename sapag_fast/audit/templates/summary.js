(function () {
  "use strict";
  var size = 60, page = 0;
  var all = Array.prototype.slice.call(document.querySelectorAll(".victim"));
  var search = document.getElementById("search"), told = document.getElementById("told");
  var back = document.getElementById("back"), on = document.getElementById("on");
  if (!search) { return; }
  function show() {
    var words = search.value.toLowerCase();
    var found = all.filter(function (victim) {
      return victim.getAttribute("data-name").toLowerCase().indexOf(words) >= 0;
    });
    var pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    all.forEach(function (victim) { victim.hidden = true; });
    found.slice(page * size, (page + 1) * size).forEach(function (victim) { victim.hidden = false; });
    told.textContent = found.length + " victims, page " + (page + 1) + " of " + pages;
    back.disabled = page === 0;
    on.disabled = page === pages - 1;
  }
  search.addEventListener("input", function () { page = 0; show(); });
  back.addEventListener("click", function () { page -= 1; show(); });
  on.addEventListener("click", function () { page += 1; show(); });
  document.getElementById("controls").hidden = false;
  show();
}());
