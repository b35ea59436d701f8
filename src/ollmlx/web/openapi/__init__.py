"""The daemon's routes as an OpenAPI document and as a page for people.

`document` is for route families, which describe their routes with it; `page` serves the result.
"""
